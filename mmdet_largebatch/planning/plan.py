"""Compute the figures of a training from its config."""

from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from torch.utils.data import DataLoader

from ..checks import invalid
from ..compat import accumulative_counts
from ..global_batch import GlobalBatchTrainLoop
from ..global_batch.collectives import calls_reduce_mean
from ..hooks import WarmupStepLRHook
from ..optimizers import LAMB
from ..results import settings
from ..schedulers import warmup_step_factor
from ..utils.runner import find_hook
from .advice import advise
from .counts import count_checkpoints, count_evaluations
from .dry_runner import DryRunner, dry_run
from .optimizer import Backend, GroupSetting, group_settings, lamb_backend, state_bytes, trainable

# A schedule that lowers the LR at more updates than this decays gradually, not in steps.
MOST_DECAYS = 20


@dataclass
class Decay:
    """A step of the LR.

    Args:
        update (int): The first update with the lower LR, counted from 0.
        epoch (float): Epochs done by then.
        lr (float): The LR from then on.
    """

    update: int
    epoch: float
    lr: float


@dataclass
class Plan:
    """The figures of a training. Names are those of :mod:`mmdet_largebatch.utils.record`.

    Args:
        ranks (int): Number of ranks.
        ranks_from (str): Source of that number.
        seed (int, optional): The seed of the config, None for a random one.
        images (int): Training images of an epoch, after the dataset's filter.
        micro_batch (int): Images that a rank computes at a time.
        micro_batches (int): Micro-batches of an update, over all ranks.
        micro_batches_per_rank (tuple[int, int]): The fewest and the most on a rank.
        global_batch (int): Images of an update.
        epochs (int): Epochs.
        updates_per_epoch (float): Updates of an epoch. Not a whole number if MMEngine's
            ``accumulative_counts`` straddles epochs.
        updates (int): Updates of the schedule.
        max_updates (int, optional): Updates after which the training is cut, None for all.
        evaluations (int): Evaluations of the training.
        checkpoints (int): Checkpoints of the training, without those by time.
        lr (float): The base LR of the schedule, after scaling.
        lr_from (str): Source of ``lr``.
        lr_published (str): LR of published recipes, empty if none is known.
        schedule (str): Classes that set the LR.
        first_lr (float): LR of the first update.
        last_lr (float): LR of the last update.
        warmup_updates (int): Length of the warmup in updates, 0 for none.
        warmup_epochs (float): The same in epochs.
        milestones (list[int]): Updates from which on the LR is lower; empty if ``gradual_decay``.
        gamma (float, optional): Factor of a decay, None for MMEngine's schedulers.
        decays (list[Decay]): The decays at the milestones.
        gradual_decay (bool): True if the LR decays gradually.
        optimizer (str): Class of the optimizer.
        backend (Backend, optional): Backend of LAMB, None for another optimizer.
        groups (int): Number of trained parameter groups.
        group_settings (list[GroupSetting]): Their options, most parameters first.
        tensors (int): Number of trained tensors.
        parameters (int): Number of their elements.
        state_bytes (int, optional): Optimizer state on each rank, None if unknown.
        gradient_bytes (int): Bytes that a rank all-reduces in an update, 0 on one rank.
        exact_sum (bool): True if gradients are added as integers.
        two_passes (bool): True if micro-batches are computed in two passes, since the model calls
            ``reduce_mean`` and a rank has several of an update.
        warnings (list[str]): Settings that deserve a second look.
        lrs (np.ndarray): LR of each update, float64 of shape (updates,).
    """

    ranks: int
    ranks_from: str
    seed: int | None
    images: int
    micro_batch: int
    micro_batches: int
    micro_batches_per_rank: tuple[int, int]
    global_batch: int
    epochs: int
    updates_per_epoch: float
    updates: int
    max_updates: int | None
    evaluations: int
    checkpoints: int
    lr: float
    lr_from: str
    lr_published: str
    schedule: str
    first_lr: float
    last_lr: float
    warmup_updates: int
    warmup_epochs: float
    milestones: list[int]
    gamma: float | None
    decays: list[Decay]
    gradual_decay: bool
    optimizer: str
    backend: Backend | None
    groups: int
    group_settings: list[GroupSetting]
    tensors: int
    parameters: int
    state_bytes: int | None
    gradient_bytes: int
    exact_sum: bool
    two_passes: bool
    warnings: list[str]
    lrs: np.ndarray = field(repr=False)


def make_plan(cfg: Config, ranks: int | None = None, images: int | None = None) -> Plan:
    """Plan a training. No data but the annotation file is read.

    It must not be called in a process that is a rank of a training.

    Args:
        cfg (Config): The config of the training; it is not changed.
        ranks (int, optional): Number of ranks, >= 1. None takes the recipe's own number: global
            batch / micro-batch, or mmdet's ``auto_scale_lr.base_batch_size`` / micro-batch.
        images (int, optional): Training images, after the dataset's filter. None builds the dataset
            and counts.

    Returns:
        Plan: The figures.

    Raises:
        SettingError: If the training would be refused, with the same message, or cannot be planned.
    """
    ranks, ranks_from = (ranks, '--gpus') if ranks is not None else _own_ranks(cfg)
    with dry_run(cfg, ranks, images) as runner:
        loop, optimizer = runner.train_loop, runner.optim_wrapper.optimizer
        counted = isinstance(loop, GlobalBatchTrainLoop)
        accumulated = 1 if counted else accumulative_counts(runner.optim_wrapper)
        micro_batch = _micro_batch(loop.dataloader)
        micro_batches = loop.sampler.micro_batches if counted else ranks * accumulated
        exact_sum = counted and loop.exact_sum
        per_epoch = len(loop.dataloader) / accumulated
        if per_epoch.is_integer():
            per_epoch = int(per_epoch)
        schedule = _schedule(runner, accumulated)
        lrs, milestones = schedule['lrs'], schedule['milestones']
        params, groups = trainable(optimizer), group_settings(optimizer)
        backend = None
        if isinstance(optimizer, LAMB):
            backend = lamb_backend(optimizer, cfg.optim_wrapper.optimizer.get('backend', 'auto'))
        plan = Plan(
            **schedule,
            ranks=ranks,
            ranks_from=ranks_from,
            seed=(cfg.get('randomness') or {}).get('seed'),
            images=len(loop.dataloader.dataset),
            micro_batch=micro_batch,
            micro_batches=micro_batches,
            micro_batches_per_rank=(micro_batches // ranks, ceil(micro_batches / ranks)),
            global_batch=micro_batch * micro_batches,
            epochs=loop.max_epochs,
            updates_per_epoch=per_epoch,
            updates=ceil(loop.max_iters / accumulated),
            max_updates=loop.end if counted and loop.end < loop.max_iters else None,
            evaluations=count_evaluations(runner),
            checkpoints=count_checkpoints(runner),
            lr_published='',
            first_lr=float(lrs[0]),
            last_lr=float(lrs[-1]),
            warmup_epochs=schedule['warmup_updates'] / per_epoch,
            decays=[Decay(update, update / per_epoch, float(lrs[update])) for update in milestones],
            optimizer=type(optimizer).__name__,
            backend=backend,
            groups=sum(setting.groups for setting in groups),
            group_settings=groups,
            tensors=len(params),
            parameters=sum(p.numel() for p in params),
            gradient_bytes=sum(
                p.numel() * (8 if exact_sum else p.element_size()) for p in params if ranks > 1
            ),
            exact_sum=exact_sum,
            two_passes=counted and micro_batches > ranks and calls_reduce_mean(runner.model),
            warnings=[],
            state_bytes=state_bytes(optimizer),
        )
        advise(plan, runner, cfg.train_dataloader.dataset)
        return plan


def _own_ranks(cfg: Config) -> tuple[int, str]:
    """Return the number of ranks that a recipe is made for, 1 if unknown, and its source."""
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    for section, key in (('train_cfg', 'global_batch_size'), ('auto_scale_lr', 'base_batch_size')):
        made_for = (cfg.get(section) or {}).get(key)
        if not isinstance(batch, int) or not isinstance(made_for, int):
            continue
        if batch > 0 < made_for and made_for % batch == 0:
            return made_for // batch, f'{section}.{key} / train_dataloader.batch_size'
    return 1, 'the config says no number that fits'


def _micro_batch(loader: DataLoader) -> int:
    # mmdet's aspect-ratio batches come from a batch sampler: the loader's own size is None.
    batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
    if batch is None:
        kind = type(loader.batch_sampler).__name__
        wanted = 'one with a batch_size to be planned'
        raise invalid('train_dataloader.batch_sampler.type', kind, wanted)
    return batch


def _schedule(runner: DryRunner, accumulated: int) -> dict[str, Any]:
    """Return the figures of the LR, by their names in :class:`Plan`."""
    configured = runner.optim_wrapper.optimizer.defaults['lr']
    lr, hook = configured * runner.lr_scale, find_hook(runner, WarmupStepLRHook)
    rule, lr_from = None, 'as configured'
    if hook is not None and hook.scale_rule is not None:
        rule, batch = f'the {hook.scale_rule} rule', hook.base_batch_size
    elif (runner.auto_scale_lr or {}).get('enable', False):
        rule, batch = 'auto_scale_lr', runner.auto_scale_lr['base_batch_size']
    if rule is not None:
        lr_from = f'by {rule}: {configured:g} at batch {batch}, x {runner.lr_scale:g}'
    if hook is not None:
        own = hook.scheduler
        shape = own.warmup_iters, own.milestones, own.gamma, own.warmup_ratio
        updates = range(runner.train_loop.max_iters)
        return dict(
            lrs=lr * np.array([warmup_step_factor(update, *shape) for update in updates]),
            lr=lr,
            lr_from=lr_from,
            schedule=type(hook).__name__,
            warmup_updates=own.warmup_iters,
            milestones=list(own.milestones),
            gamma=own.gamma,
            gradual_decay=False,
        )
    steps = find_hook(runner, ParamSchedulerHook) and runner.param_schedulers
    made_by = [type(scheduler).__name__ for scheduler in steps or []]
    if users := settings.own_scheduler_hook(runner.cfg):
        made_by.append(f'{users}, whose LRs are not planned')
    group = runner.optim_wrapper.optimizer.param_groups[runner.base_group]
    if 'max_lr' in group:
        lr, lr_from = group['max_lr'], 'by eta_max of param_scheduler'
    lrs = runner.step_schedulers(lr, accumulated)
    decays = (np.flatnonzero(np.diff(lrs) < -1e-9 * lrs[:-1]) + 1).tolist()
    warmup = 0
    if any(name.startswith('OneCycle') for name in made_by):
        warmup = int(np.argmax(lrs)) + 1
    elif made_by:
        # From the config: a decay within the warmup moves the peak.
        warmup = settings.warmup_updates(runner.cfg, len(runner.train_loop.dataloader)) or 0
    return dict(
        lrs=lrs,
        lr=lr,
        lr_from=lr_from,
        schedule=', '.join(made_by) or 'nothing, it is constant',
        warmup_updates=warmup,
        milestones=decays if len(decays) <= MOST_DECAYS else [],
        gamma=None,
        gradual_decay=len(decays) > MOST_DECAYS,
    )
