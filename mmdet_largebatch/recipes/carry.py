"""Carry a recipe to another global batch."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..checks import check, check_positive_integer
from ..global_batch.remembering import remembering_message
from ..global_batch.settings import STOCK_SETTINGS
from ..utils.type_names import type_name
from .base_batch import Batches, find_batches
from .change import Change, Path, apply_changes, value_at
from .counts import carry_counts
from .optimizer import MERGED, STOCK_CONSTRUCTORS, carry_optimizer
from .rules import INTERVAL_SOURCE, carried_updates
from .schedule import carry_schedule

PACKAGE = 'mmdet_largebatch'
LOOP = 'GlobalBatchTrainLoop'
RELIABILITY = dict(preemption='PreemptionHook', divergence='DivergenceHook')


def carry_recipe(
    cfg: Config,
    global_batch: int,
    optimizer: str | None = None,
    base_batch: int | None = None,
    lr_rule: str | None = None,
) -> tuple[Config, list[Change]]:
    """Carry a recipe to another global batch, each setting by a rule with a source.

    The new recipe trains by :class:`GlobalBatchTrainLoop`, with the hooks of reliability. LR,
    warmup, EMA and whatever counts iterations are carried; epochs stay epochs. A linear warmup with
    step decay becomes :class:`WarmupStepLRHook`; any other schedule stays MMEngine's.

    Args:
        cfg (Config): The old recipe; it is not changed.
        global_batch (int): Images of an update of the new recipe, a multiple of
            ``train_dataloader.batch_size``.
        optimizer (str, optional): ``'SGD'``, ``'AdamW'``, ``'LARS'`` or ``'LAMB'``; None keeps the
            optimizer. Defaults to None.
        base_batch (int, optional): Images of an update that the old recipe is meant for; None reads
            it from the config. Defaults to None.
        lr_rule (str, optional): ``'linear'`` or ``'sqrt'``; None takes the rule of the optimizer.
            Defaults to None.

    Returns:
        tuple[Config, list[Change]]: The new recipe, and each setting that changes, or that stays
        for a reason that must be said.

    Raises:
        SettingError: If the config counts in iterations, has several optimizers, does not say its
            global batch, or the new one is no multiple of the micro-batch.

    Example:
        >>> from mmengine.hub import get_config
        >>> cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
        >>> recipe, changes = carry_recipe(cfg, 128)
        >>> recipe.optim_wrapper.optimizer.lr, recipe.default_hooks.lr.warmup_iters
        (0.16, 625)
    """
    _check_loop(cfg)
    batches = find_batches(cfg, global_batch, base_batch)
    of_optimizer = carry_optimizer(cfg, batches, optimizer, lr_rule)
    path: Path = ('optim_wrapper', 'optimizer', 'lr')
    old = value_at(cfg, path)
    lr_ratio = next(change.new for change in of_optimizer if change.path == path) / old
    changes = [
        *_doubt(cfg, batches),
        *_imports(cfg),
        *_loop(cfg, batches),
        *of_optimizer,
        *_wrapper(cfg),
        *carry_schedule(cfg, batches, lr_ratio),
        *_reliability(cfg),
        *carry_counts(cfg, batches),
        *_auto_scale_lr(cfg, batches),
        *_outside(cfg),
    ]
    return apply_changes(cfg, changes), changes


def _check_loop(cfg: Config) -> None:
    """Refuse a training that has no epochs."""
    loop = cfg.get('train_cfg') or {}
    kind = type_name(loop) or ('IterBasedTrainLoop' if 'max_iters' in loop else None)
    if kind is None and loop.get('by_epoch') is False:
        kind = 'IterBasedTrainLoop'
    kind = kind or 'EpochBasedTrainLoop'
    wanted = f'EpochBasedTrainLoop or {LOOP}: a training by iterations has no epochs to keep'
    check(kind in ('EpochBasedTrainLoop', LOOP), 'train_cfg.type', kind, wanted)
    check_positive_integer('train_cfg.max_epochs', loop.get('max_epochs'))


def _doubt(cfg: Config, batches: Batches) -> list[Change]:
    """Name the micro-batch that the old batch does not fit."""
    old = cfg.train_dataloader.batch_size
    path: Path = ('train_dataloader', 'batch_size')
    return [Change(path, old, old, batches.doubt)] if batches.doubt else []


def _imports(cfg: Config) -> list[Change]:
    """Import this package, for MMDetection's own tools."""
    before = (cfg.get('custom_imports') or {}).get('imports') or []
    before = [before] if isinstance(before, str) else list(before)
    if PACKAGE in before:
        return []
    path, why = ('custom_imports', 'imports'), "registers the classes below for MMDetection's tools"
    changes = [Change(path, before or None, [*before, PACKAGE], why)]
    if 'allow_failed_imports' not in (cfg.get('custom_imports') or {}):
        path = ('custom_imports', 'allow_failed_imports')
        changes.append(Change(path, None, False, 'an import that fails is an error'))
    return changes


def _loop(cfg: Config, batches: Batches) -> list[Change]:
    """Train by GlobalBatchTrainLoop, with the same epochs and evaluations."""
    loop, changes = cfg.train_cfg, []
    size = Change(
        ('train_cfg', 'global_batch_size'),
        loop.get('global_batch_size'),
        batches.new,
        'images of an update',
        f'{batches.base}, from {batches.source}',
    )
    if type_name(loop) == LOOP:
        old = loop.get('max_updates')
        if old is None:
            return [size]
        check_positive_integer('train_cfg.max_updates', old)
        new = carried_updates(old, batches.iterations_ratio)
        why = f'updates, the same number of images: {INTERVAL_SOURCE}'
        return [size, Change(('train_cfg', 'max_updates'), old, new, why)]
    known = ('type', 'max_epochs', *STOCK_SETTINGS, '_scope_')
    others = [key for key in loop if key not in known]
    if others:
        why = f'{LOOP} has no {", ".join(others)}'
        changes.append(Change(('train_cfg', '_delete_'), None, True, why))
    why = 'an update learns from the global batch, on any number of GPUs'
    changes.append(Change(('train_cfg', 'type'), type_name(loop) or None, LOOP, why))
    changes.append(size)
    if others:
        for key in known[1:]:
            if key in loop:
                changes.append(Change(('train_cfg', key), None, loop[key], 'unchanged'))
    return changes


def _wrapper(cfg: Config) -> list[Change]:
    """Merge parameter groups, and leave accumulation to the loop."""
    wrapper, changes = cfg.optim_wrapper, []
    old, path = wrapper.get('constructor'), ('optim_wrapper', 'constructor')
    if type_name(old) in STOCK_CONSTRUCTORS:
        why = 'one parameter group per distinct setting, instead of one per tensor'
        changes.append(Change(path, old, MERGED, why))
    elif type_name(old) != MERGED:
        changes.append(Change(path, old, old, "the config's own; its groups are not merged"))
    counts = wrapper.get('accumulative_counts', 1)
    if counts != 1:
        why = f'{LOOP} accumulates the micro-batches of an update'
        changes.append(Change(('optim_wrapper', 'accumulative_counts'), counts, 1, why))
    return changes


def _reliability(cfg: Config) -> list[Change]:
    """Save atomically and on preemption, and stop before a divergence."""
    hooks, changes = cfg.get('default_hooks') or {}, []
    saving, path = hooks.get('checkpoint'), ('default_hooks', 'checkpoint', 'type')
    kind = type_name(saving)
    if kind == 'CheckpointHook':
        why = 'writes a checkpoint to a temporary file and renames it'
        changes.append(Change(path, kind, 'AtomicCheckpointHook', why))
    whys = dict(
        preemption='saves and exits on SIGTERM or SIGUSR1',
        divergence='stops before a bad update is applied',
    )
    there = {type_name(hook) for hook in [*hooks.values(), *(cfg.get('custom_hooks') or [])]}
    for key, hook in RELIABILITY.items():
        # PreemptionHook saves by AtomicCheckpointHook.
        fits = key != 'preemption' or kind in ('CheckpointHook', 'AtomicCheckpointHook')
        if hooks.get(key) is None and hook not in there and fits:
            changes.append(Change(('default_hooks', key, 'type'), None, hook, whys[key]))
    return changes


def _auto_scale_lr(cfg: Config, batches: Batches) -> list[Change]:
    old = cfg.get('auto_scale_lr')
    if old is None:
        return []
    why = f'the LR above is the LR of batch {batches.new}'
    return [Change(('auto_scale_lr',), dict(old), None, why)]


def _outside(cfg: Config) -> list[Change]:
    """Name what depends on the number of ranks all the same."""
    changes = []
    message = remembering_message(cfg.train_dataloader.get('dataset'))
    if message:
        path: Path = ('train_dataloader', 'dataset')
        changes.append(Change(path, None, None, message.rstrip('.')))
    if 'SyncBN' in _norm_types(cfg.get('model')):
        why = 'SyncBN has statistics over the ranks: this training depends on the number of ranks'
        changes.append(Change(('model',), None, None, why))
    return changes


def _norm_types(config: Any) -> Iterator[str]:
    """Yield the type of each ``norm_cfg`` in the config of a model."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == 'norm_cfg':
                yield type_name(value)
            yield from _norm_types(value)
    elif isinstance(config, (list, tuple)):
        for value in config:
            yield from _norm_types(value)
