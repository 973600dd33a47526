"""Carry the LR schedule: warmup and steps to WarmupStepLRHook, any other with MMEngine's."""

import re
from collections.abc import Callable
from itertools import accumulate, pairwise
from math import ceil
from typing import Any

from mmengine.config import Config

from ..results.settings import lr_hook, own_scheduler_hook, warmup_iterations
from ..utils.type_names import type_name
from .base_batch import Batches
from .change import Change, Path, lr_hook_path, value_at
from .rules import INTERVAL_SOURCE, WARMUP_SOURCE, carried_updates, rounded, warmup_updates

HOOK = ('default_hooks', 'lr')
# Arguments of MMEngine's schedulers that count steps, and those that are values of the parameter.
POSITIONS = ('begin', 'end')
LENGTHS = ('T_max', 'total_steps', 'step_size', 'milestones', 'warmup_iters')
VALUES = ('eta_min', 'eta_max', 'min_value')
# Schedulers whose steps have a rule, without the name of the parameter.
KNOWN = (
    *('Constant', 'CosineAnnealing', 'CosineRestart', 'Exponential', 'Linear', 'MultiStep'),
    *('OneCycle', 'Poly', 'QuadraticWarmup', 'Step', 'WarmupStep'),
)
# Arguments that leave LinearLR and MultiStepLR as WarmupStepLR is.
PLAIN = {'type', 'begin', 'end', 'by_epoch', 'verbose', '_scope_'}


def carry_schedule(cfg: Config, batches: Batches, lr_ratio: float) -> list[Change]:
    """Carry the LR schedule. Epochs stay epochs.

    Args:
        cfg (Config): The config.
        batches (Batches): The old and the new global batch.
        lr_ratio (float): New LR / old LR, for the LRs that a schedule names.

    Returns:
        list[Change]: The changes.
    """
    own = lr_hook(cfg)
    if own:
        return _carry_hook(cfg, batches)
    schedulers = cfg.get('param_scheduler') or []
    schedulers = [schedulers] if isinstance(schedulers, dict) else list(schedulers)
    if not schedulers:
        why = 'there is no schedule to carry: the LR is constant'
        if hook := own_scheduler_hook(cfg):
            why = f'{hook} sets the LR, and no rule is known for its settings'
        return [Change(('param_scheduler',), None, None, why)]
    shape = warmup_and_steps(schedulers, cfg.train_cfg.get('max_epochs'))
    free = (cfg.get('default_hooks') or {}).get('lr') is None
    if shape is not None and free:
        return _to_hook(schedulers, shape, batches)
    return _carry_schedulers(cfg, schedulers, batches, lr_ratio)


def warmup_and_steps(schedulers: list[dict[str, Any]], max_epochs: Any) -> dict[str, Any] | None:
    """Return the settings of :class:`WarmupStepLRHook` that give the same LRs.

    Args:
        schedulers (list[dict]): Configs of MMEngine's schedulers.
        max_epochs (Any): Epochs of the training.

    Returns:
        dict, optional: ``warmup_iters``, ``warmup_ratio``, ``milestones`` and ``gamma``; None if
        the schedule is not a linear warmup in iterations and one step decay in epochs.
    """
    found: dict[str, Any] = dict(milestones=[])
    for scheduler in schedulers:
        kind, begin, end = type_name(scheduler), scheduler.get('begin', 0), scheduler.get('end')
        by_epoch, options = scheduler.get('by_epoch', True), set(scheduler) - PLAIN
        if begin != 0 or kind not in ('LinearLR', 'MultiStepLR'):
            return None
        if kind == 'LinearLR':
            ratio = scheduler.get('start_factor', 1 / 3)
            linear = not by_epoch and isinstance(end, int) and 0 < ratio < 1
            if not linear or options - {'start_factor', 'end_factor'} or 'warmup_iters' in found:
                return None
            if scheduler.get('end_factor', 1.0) != 1.0:
                return None
            found |= dict(warmup_iters=end, warmup_ratio=ratio)
        else:
            milestones = list(scheduler.get('milestones', []))
            # MMEngine's scheduler does nothing from its end on.
            last = min(end or max_epochs, max_epochs)
            inside = all(0 < milestone < last for milestone in milestones)
            if options - {'milestones', 'gamma', 'convert_to_iter_based'} or 'gamma' in found:
                return None
            if not by_epoch or not inside or milestones != sorted(set(milestones)):
                return None
            found |= dict(milestones=milestones, gamma=scheduler.get('gamma', 0.1))
    return dict(warmup_iters=0) | found


def _carry_hook(cfg: Config, batches: Batches) -> list[Change]:
    path = (*lr_hook_path(cfg), 'warmup_iters')
    old = value_at(cfg, path)
    if not old:
        return []
    new = warmup_updates(old, batches.per_iteration, batches.new)
    return [Change(path, old, new, _warmup_rule(old, batches))]


def _warmup_rule(old: int, batches: Batches) -> str:
    images = f'{old * batches.per_iteration:,}'
    return f'the same {images} images, but not below a floor of updates: {WARMUP_SOURCE}'


def _to_hook(
    schedulers: list[dict[str, Any]], shape: dict[str, Any], batches: Batches
) -> list[Change]:
    why = 'the same LRs as a function of the update, editable on the command line'
    kinds = ', '.join(type_name(scheduler) for scheduler in schedulers)
    changes = [Change((*HOOK, 'type'), None, 'WarmupStepLRHook', why, kinds)]
    reasons = dict(
        warmup_iters=_warmup_rule(shape['warmup_iters'], batches),
        warmup_ratio='start_factor, unchanged',
        milestones='epochs stay epochs',
        gamma='unchanged',
    )
    for name, why in reasons.items():
        if name not in shape:
            continue
        old = new = shape[name]
        if name == 'warmup_iters':
            new = warmup_updates(old, batches.per_iteration, batches.new)
            if not old:
                why = 'the old recipe has no warmup'
        changes.append(Change((*HOOK, name), None, new, why, f'{old!r} in param_scheduler'))
    old = [dict(scheduler) for scheduler in schedulers]
    why = 'default_hooks.lr is the schedule'
    return [*changes, Change(('param_scheduler',), old, None, why)]


def _carry_schedulers(
    cfg: Config, schedulers: list[dict[str, Any]], batches: Batches, lr_ratio: float
) -> list[Change]:
    """Carry the iterations and the absolute LRs of MMEngine's own schedulers."""
    changes = []
    if isinstance(cfg.param_scheduler, dict):
        paths: list[Path] = [('param_scheduler',)]
    else:
        paths = [('param_scheduler', index) for index in range(len(schedulers))]
    warmup = warmup_iterations(cfg, None) or 0
    position = _positions(warmup, batches)
    for path, scheduler in zip(paths, schedulers, strict=True):
        kind = type_name(scheduler)
        by_epoch = scheduler.get('by_epoch', kind != 'WarmupStepLR')
        for name in (*POSITIONS, *LENGTHS):
            old: Any = scheduler.get(name)
            if by_epoch or not isinstance(old, (int, list, tuple)) or old == 0:
                continue
            begin, end = scheduler.get('begin', 0), scheduler.get('end')
            why = f'iterations, the same number of images: {INTERVAL_SOURCE}'
            if not isinstance(old, int):
                new: Any = [carried_updates(step, batches.iterations_ratio) for step in old]
            elif name == 'warmup_iters' or (name in POSITIONS and old == warmup):
                new = warmup_updates(old, batches.per_iteration, batches.new)
                why = _warmup_rule(old, batches)
            elif name in POSITIONS:
                new = position(old)
            elif name in ('T_max', 'total_steps') and end is not None and old == end - begin:
                new = position(end) - position(begin)
            elif name == 'total_steps' and batches.iterations_ratio != 1:
                new = ceil(old / batches.iterations_ratio) + cfg.train_cfg.max_epochs
                why += f', and one update an epoch for its last images: {kind} stops at its end'
            else:
                new = carried_updates(old, batches.iterations_ratio)
            changes.append(Change((*path, name), old, new, why))
        if not by_epoch:
            changes += _carry_shape(path, scheduler, position, batches)
        for name in VALUES if kind.endswith('LR') else ():
            if scheduler.get(name):
                old = scheduler[name]
                why = 'an LR, times the factor of optim_wrapper.optimizer.lr'
                if isinstance(old, (list, tuple)):
                    new = [rounded(value * lr_ratio) for value in old]
                else:
                    new = rounded(old * lr_ratio)
                changes.append(Change((*path, name), old, new, why))
    return changes


def _carry_shape(
    path: Path, scheduler: dict[str, Any], position: Callable[[int], int], batches: Batches
) -> list[Change]:
    """Carry what some schedulers have of their own for each iteration."""
    kind = re.sub('(LR|Momentum|ParamScheduler)$', '', type_name(scheduler))
    if kind == 'Exponential' and scheduler.get('gamma'):
        old, ratio = scheduler['gamma'], batches.iterations_ratio
        why = f'a factor of each iteration, gamma^{ratio:g}: the same decay over the same images'
        # Its power of all updates is the last LR: 6 digits are too few.
        return [Change((*path, 'gamma'), old, round(old**ratio, 12), why)]
    if kind == 'CosineRestart' and scheduler.get('periods'):
        # The restarts, not the lengths, are rounded.
        begin = scheduler.get('begin', 0)
        ends = [position(x) for x in accumulate(scheduler['periods'], initial=begin)]
        new = [max(1, end - start) for start, end in pairwise(ends)]
        why = f'iterations, the same number of images: {INTERVAL_SOURCE}'
        return [Change((*path, 'periods'), list(scheduler['periods']), new, why)]
    if kind not in KNOWN:
        why = 'it counts iterations, and no rule is known for its other arguments'
        return [Change((*path, 'type'), scheduler['type'], scheduler['type'], why)]
    return []


def _positions(warmup: int, batches: Batches) -> Callable[[int], int]:
    """Return the map from iterations to updates, given the old length of the warmup."""
    carried = warmup_updates(warmup, batches.per_iteration, batches.new)

    def position(iteration: int) -> int:
        if iteration <= warmup:
            return round(iteration * carried / max(1, warmup))
        return max(carried, carried_updates(iteration, batches.iterations_ratio))

    return position
