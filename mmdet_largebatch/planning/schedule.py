"""Compute the LR of every update of a planned training."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import OptimWrapper

from ..hooks import WarmupStepLRHook
from ..results import settings
from ..schedulers import warmup_step_factor
from ..utils.runner import find_hook
from .dry_runner import DryRunner

# A schedule that lowers the LR at more updates than this decays gradually, not in steps.
MOST_DECAYS = 20


@dataclass
class Schedule:
    """The LR of a training, in updates.

    Args:
        lrs (np.ndarray): LR of each update, float64 of shape (updates,).
        base_lr (float): What the schedule is a factor of: the config's LR, scaled.
        lr_from (str): Where ``base_lr`` comes from.
        made_by (str): What sets the LR.
        warmup (int): Length of the warmup in updates, 0 for none.
        decays (list[int]): Updates from which on the LR is lower; empty where it is lowered at more
            than ``MOST_DECAYS``.
        gradual (bool): Whether it is.
    """

    lrs: np.ndarray
    base_lr: float
    lr_from: str
    made_by: str
    warmup: int
    decays: list[int]
    gradual: bool = False


def find_schedule(runner: DryRunner, accumulated: int) -> Schedule:
    """Find the schedule of a training.

    Args:
        runner (DryRunner): The prepared runner.
        accumulated (int): Iterations of its loop that make one update.

    Returns:
        Schedule: The LR of every update.
    """
    configured = runner.optim_wrapper.optimizer.defaults['lr']
    groups = runner.optim_wrapper.optimizer.param_groups
    scaled = [group.get('initial_lr', group['lr']) for group in groups]
    scale = next((b / a for a, b in zip(runner.configured_lrs, scaled, strict=True) if a), 1.0)
    hook = find_hook(runner, WarmupStepLRHook)
    rule = None
    if hook is not None and hook.scale_rule is not None:
        rule, batch = f'the {hook.scale_rule} rule', hook.base_batch_size
    elif (runner.auto_scale_lr or {}).get('enable', False):
        rule, batch = 'auto_scale_lr', runner.auto_scale_lr['base_batch_size']
    lr_from = 'as configured'
    if rule is not None:
        lr_from = f'by {rule}: {configured:g} at batch {batch}, x {scale:g}'
    if hook is not None:
        return _of_hook(runner, hook, configured * scale, lr_from)
    return _of_schedulers(runner, configured * scale, lr_from, accumulated)


def _of_hook(runner: DryRunner, hook: WarmupStepLRHook, base_lr: float, lr_from: str) -> Schedule:
    resolved = hook.scheduler
    settings = (
        resolved.warmup_iters,
        resolved.milestones,
        resolved.gamma,
        resolved.warmup_ratio,
    )
    updates = range(runner.train_loop.max_iters)
    return Schedule(
        lrs=base_lr * np.array([warmup_step_factor(update, *settings) for update in updates]),
        base_lr=base_lr,
        lr_from=lr_from,
        made_by=type(hook).__name__,
        warmup=resolved.warmup_iters,
        decays=list(resolved.milestones),
    )


def _of_schedulers(runner: DryRunner, base_lr: float, lr_from: str, accumulated: int) -> Schedule:
    """Return the schedule of MMEngine's schedulers: warmup from the config, decays from the LRs."""
    made_by = [type(scheduler).__name__ for scheduler in runner.param_schedulers or []]
    if find_hook(runner, ParamSchedulerHook) is None:
        made_by = []
    lrs = _stepped(runner, base_lr, accumulated)
    decays = (np.flatnonzero(np.diff(lrs) < -1e-9 * lrs[:-1]) + 1).tolist()
    warmup = 0
    if any(name.startswith('OneCycle') for name in made_by):
        warmup = int(np.argmax(lrs)) + 1
    elif made_by:
        # A decay may come before its end: the peak does not tell it.
        warmup = settings.warmup_updates(runner.cfg, len(runner.train_loop.dataloader)) or 0
    gradual = len(decays) > MOST_DECAYS
    return Schedule(
        lrs=lrs,
        base_lr=base_lr,
        lr_from=lr_from,
        made_by=', '.join(made_by) or 'nothing, it is constant',
        warmup=warmup,
        decays=[] if gradual else decays,
        gradual=gradual,
    )


def _stepped(runner: DryRunner, base_lr: float, accumulated: int) -> np.ndarray:
    """Step MMEngine's schedulers by its hook, and return the LR of each update.

    They step every iteration of the loop, and an update has the LR of its last one. They act on
    an optimizer of one group, as an LR that belongs to all groups is asked for.
    """
    loop, config = runner.train_loop, runner.cfg.get('param_scheduler')
    stepper = find_hook(runner, ParamSchedulerHook)
    if config is None or stepper is None:
        return np.full(ceil(loop.max_iters / accumulated), base_lr)
    built = runner.optim_wrapper, runner.param_schedulers
    optimizer = torch.optim.SGD([torch.zeros(())], lr=base_lr)
    runner.optim_wrapper = OptimWrapper(optimizer)
    runner.param_schedulers = runner.build_param_scheduler(config)
    runner.optim_wrapper.step()  # Schedulers warn where the first step is theirs; it moves nothing.
    length, lrs = len(loop.dataloader), []
    for iteration in range(1, loop.max_iters + 1):
        if iteration % accumulated == 0 or iteration == loop.max_iters:
            lrs.append(optimizer.param_groups[0]['lr'])
        stepper.after_train_iter(runner, iteration)
        if iteration % length == 0:
            stepper.after_train_epoch(runner)
    runner.optim_wrapper, runner.param_schedulers = built
    return np.array(lrs)
