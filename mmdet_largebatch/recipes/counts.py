"""Carry what hooks and models count in iterations: intervals, begins, and EMA."""

from collections.abc import Iterator
from inspect import signature
from typing import Any

from mmdet.models.layers import ExpMomentumEMA
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.model import MomentumAnnealingEMA

from ..utils.type_names import type_name
from .base_batch import Batches
from .change import LR_HOOK, Change, Path
from .rules import EMA_SOURCE, INTERVAL_SOURCE, carried_updates, ema_momentum

# Intervals in iterations of training, by type of the hook, and MMEngine's and mmdet's defaults.
INTERVALS = {
    'LoggerHook': 10,
    'CheckInvalidLossHook': 50,
    'TrustRatioHook': 50,
    'NoiseScaleHook': 50,
    'TrainAugmentDetVisualizationHook': None,
}
SAVING = ('CheckpointHook', 'AtomicCheckpointHook')
# Hooks that average weights over updates.
AVERAGING = ('EMAHook', 'MeanTeacherHook')
SAME_IMAGES = f'iterations, the same number of images: {INTERVAL_SOURCE}'


def carry_counts(cfg: Config, batches: Batches) -> list[Change]:
    """Carry intervals, begins and EMA of all hooks, and random sizes of the model.

    Args:
        cfg (Config): The config.
        batches (Batches): The old and the new global batch.

    Returns:
        list[Change]: The changes, and the settings of the model that count iterations and stay.
    """
    changes = []
    for path, hook in _hooks(cfg):
        kind = type_name(hook)
        changes += _positions(path, hook, batches)
        if kind in INTERVALS:
            old = hook.get('interval', INTERVALS[kind])
            changes += _interval(path, 'interval', old, hook.get('interval'), batches)
        elif kind in SAVING and hook.get('by_epoch') is False:
            for name in ('interval', 'save_begin'):
                changes += _interval(path, name, hook.get(name), hook.get(name), batches)
        elif kind in AVERAGING:
            changes += _average(path, hook, batches)
    return [*changes, *_of_model(cfg, batches)]


def _hooks(cfg: Config) -> Iterator[tuple[Path, dict[str, Any]]]:
    for key, hook in (cfg.get('default_hooks') or {}).items():
        if isinstance(hook, dict) and type_name(hook) != LR_HOOK:
            yield ('default_hooks', key), hook
    for index, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, dict) and type_name(hook) != LR_HOOK:
            yield ('custom_hooks', index), hook


def _interval(path: Path, name: str, old: Any, written: Any, batches: Batches) -> list[Change]:
    """Carry an interval. A negative one is switched off."""
    if not isinstance(old, int) or old <= 0:
        return []
    new = carried_updates(old, batches.iterations_ratio)
    was = '' if written is not None else f'{old} by default'
    return [] if new == old else [Change((*path, name), written, new, SAME_IMAGES, was)]


def _positions(path: Path, hook: dict[str, Any], batches: Batches) -> list[Change]:
    """Carry settings such as ``begin_iter`` and ``switch_iter``."""
    names = [name for name in hook if name.endswith(('_iter', '_iters'))]
    return [
        change
        for name in names
        for change in _interval(path, name, hook[name], hook[name], batches)
    ]


def _average(path: Path, hook: dict[str, Any], batches: Batches) -> list[Change]:
    """Carry the momentum of an EMA, and ``gamma``, the length of its own warmup in updates."""
    changes, ratio = [], batches.iterations_ratio
    # EMAHook passes its arguments on.
    kind, registry = hook['type'], HOOKS
    if type_name(hook) == 'EMAHook':
        kind, registry = hook.get('ema_type', 'ExponentialMovingAverage'), MODELS
    kind = (registry.get(kind) or kind) if isinstance(kind, str) else kind
    parameters = signature(kind).parameters if callable(kind) else {}
    defaults = {name: parameters[name].default for name in parameters}
    if ratio == 1:
        return []
    for name in ('momentum', 'gamma'):
        old = hook.get(name, defaults.get(name))
        was = '' if name in hook else f'{old} by default'
        if name == 'momentum' and isinstance(old, float):
            new: float = ema_momentum(old, ratio)
            why = f'1 - (1 - momentum)^{ratio:g}: {EMA_SOURCE}'
        elif name == 'gamma' and isinstance(old, int):
            new, why = _gamma(kind, old, ratio)
        else:
            continue
        if new != old:
            changes.append(Change((*path, name), hook.get(name), new, why, was))
        elif why:
            changes.append(Change((*path, name), old, old, why))
    return changes


def _gamma(kind: Any, gamma: int, ratio: float) -> tuple[int, str]:
    """Carry ``gamma`` of an EMA; return the reason too, empty if it rightly stays."""
    if isinstance(kind, type) and issubclass(kind, MomentumAnnealingEMA):
        # The momentum gamma / (gamma + t) leaves (s / t) ** gamma of the average at update s: the
        # same for images, at any batch.
        return gamma, ''
    if isinstance(kind, type) and issubclass(kind, ExpMomentumEMA):
        why = 'updates, the same number of images, as D-FINE halves its warmup of the EMA'
        return carried_updates(gamma, ratio), why
    return gamma, f'no rule is known for gamma of {type_name(kind)}'


def _of_model(cfg: Config, batches: Batches) -> list[Change]:
    """Carry the interval of random input sizes; name other settings that count iterations."""
    changes = []
    path: Path = ('model', 'data_preprocessor', 'batch_augments')
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or {}
    for index, augment in enumerate(preprocessor.get('batch_augments') or []):
        if type_name(augment) == 'BatchSyncRandomResize':
            old = augment.get('interval', 10)
            written = augment.get('interval')
            changes += _interval((*path, index), 'interval', old, written, batches)
    for path, value in _iterations(cfg.get('model'), ('model',)):
        why = 'seems to count iterations, and no rule is known'
        changes.append(Change(path, value, value, why))
    return changes


def _iterations(config: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Find numbers above 1 whose name says that they count iterations of the training."""
    if isinstance(config, dict):
        for key, value in config.items():
            named = isinstance(key, str) and {'iter', 'iters'} & set(key.split('_'))
            if named and key.count('_') and isinstance(value, int) and value > 1:
                yield (*path, key), value
            yield from _iterations(value, (*path, key))
    elif isinstance(config, (list, tuple)):
        for index, value in enumerate(config):
            yield from _iterations(value, (*path, index))
