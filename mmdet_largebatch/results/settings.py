"""Read the settings of a run from its config."""

import copy
import math
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checks import invalid
from ..errors import SettingError
from ..schedulers.scaling import SCALE_RULES, scale_factor
from ..utils.type_names import type_name

# Keys that belong to the machine and the start, not to the recipe.
LAUNCH_KEYS = (
    *('work_dir', 'resume', 'first_start', 'launcher'),
    *('visualizer', 'vis_backends', 'log_level'),
)
# MMEngine's schedulers that are a warmup if they begin at the first iteration.
WARMUPS = ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR')


def check_by_epoch(cfg: Config, work_dir: str | Path) -> None:
    """Refuse a run that does not count in epochs.

    Args:
        cfg (Config): Config.
        work_dir (str or Path): Work folder, for the message.

    Raises:
        SettingError: If the run counts in iterations.
    """
    loop = cfg.get('train_cfg') or {}
    if not isinstance(loop.get('max_epochs'), int):
        kind = type_name(loop) or ('IterBasedTrainLoop' if 'max_iters' in loop else None)
        raise SettingError(
            f'work_dir={work_dir}: its train_cfg.type={kind} has no max_epochs. Must be a training '
            'in epochs.'
        )
    hooks = cfg.get('default_hooks') or {}
    if not (hooks.get('logger') or {}).get('log_metric_by_epoch', True):
        raise SettingError(
            f'work_dir={work_dir}: its default_hooks.logger.log_metric_by_epoch=False. Must be '
            'True: results are listed by epoch.'
        )


def optimizer_config(cfg: Config | dict[str, Any]) -> dict[str, Any]:
    """Return the config of the optimizer, a part of ``cfg``; empty for several optimizers."""
    return (cfg.get('optim_wrapper') or {}).get('optimizer') or {}


def hooks_of(cfg: Config | dict[str, Any]) -> list[dict[str, Any]]:
    """Return the configs of all hooks, parts of ``cfg``."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    return [hook for hook in hooks if isinstance(hook, dict)]


def lr_hook(cfg: Config | dict[str, Any]) -> dict[str, Any]:
    """Return the config of :class:`WarmupStepLRHook`, a part of ``cfg``; empty if unused."""
    return next((hook for hook in hooks_of(cfg) if type_name(hook) == 'WarmupStepLRHook'), {})


def own_scheduler_hook(cfg: Config) -> str:
    """Return the class name of a scheduler hook that is not MMEngine's; empty for MMEngine's.

    Such a hook may set the LR itself, as mmyolo's ``YOLOv5ParamSchedulerHook`` does.
    """
    name = type_name((cfg.get('default_hooks') or {}).get('param_scheduler'))
    return '' if name == 'ParamSchedulerHook' else name


def schedule_peaks(cfg: Config) -> dict[str, Any]:
    """Return the peak LRs that schedulers name themselves, such as ``eta_max`` of ``OneCycleLR``.

    Such a schedule ignores the LR of the optimizer.

    Args:
        cfg (Config): Config.

    Returns:
        dict[str, Any]: Peaks by the key of the setting; a peak may be a list, one for each group.
    """
    schedulers = cfg.get('param_scheduler') or []
    if isinstance(schedulers, dict):
        places = [('param_scheduler', schedulers)]
    else:
        places = [(f'param_scheduler.{index}', x) for index, x in enumerate(schedulers)]
    return {f'{key}.eta_max': x['eta_max'] for key, x in places if 'eta_max' in x}


def check_lr_is_followed(cfg: Config, where: str) -> None:
    """Refuse a schedule that ignores the LR of the optimizer.

    Args:
        cfg (Config): Config.
        where (str): Where that LR is set.

    Raises:
        SettingError: If a scheduler names its own peak.
    """
    for name, value in schedule_peaks(cfg).items():
        wanted = f'left out {where}, as in a schedule that follows optim_wrapper.optimizer.lr'
        raise invalid(name, value, wanted)


def iterations_per_update(cfg: Config) -> int:
    """Return ``accumulative_counts``, which is 1 for :class:`GlobalBatchTrainLoop`."""
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def global_batch(cfg: Config, ranks: int | None) -> int | None:
    """Return ``train_cfg.global_batch_size``, or ranks x batch size x ``accumulative_counts``."""
    if 'global_batch_size' in cfg.train_cfg:
        return cfg.train_cfg.global_batch_size
    micro_batch = _micro_batch(cfg)
    return ranks and micro_batch and ranks * micro_batch * iterations_per_update(cfg)


def max_updates(cfg: Config, updates_per_epoch: int | None) -> int | None:
    """Return ``train_cfg.max_updates``; None if it does not cut the schedule short."""
    wanted = cfg.train_cfg.get('max_updates')
    whole = updates_per_epoch and cfg.train_cfg.max_epochs * updates_per_epoch
    return None if wanted is None or (whole and wanted >= whole) else wanted


def base_lr(cfg: Config, ranks: int | None) -> float | None:
    """Return the LR after the warmup, scaled by ``scale_rule`` or ``auto_scale_lr`` if set.

    It is the peak that a schedule names itself. Of several for each group it is the first.
    """
    lr, hook, stock = optimizer_config(cfg).get('lr'), lr_hook(cfg), cfg.get('auto_scale_lr') or {}
    if peaks := list(schedule_peaks(cfg).values()):
        return peaks[0][0] if isinstance(peaks[0], (list, tuple)) else peaks[0]
    if lr is None:
        return None
    if hook and hook.get('scale_rule'):
        batch, base, rule = global_batch(cfg, ranks), hook['base_batch_size'], hook['scale_rule']
    elif stock.get('enable') and 'global_batch_size' in cfg.train_cfg:
        name = type_name(optimizer_config(cfg))
        if name not in SCALE_RULES:
            return None
        batch, base = cfg.train_cfg.global_batch_size, stock['base_batch_size']
        rule = SCALE_RULES[name].name
    elif stock.get('enable'):
        # MMEngine's own scaling ignores accumulative_counts.
        micro_batch, base, rule = _micro_batch(cfg), stock['base_batch_size'], 'linear'
        batch = ranks and micro_batch and ranks * micro_batch
    else:
        return lr
    return batch and lr * scale_factor(rule, batch, base)


def warmup_updates(cfg: Config, iterations_per_epoch: int | None) -> int | None:
    """Return the length of the warmup.

    Args:
        cfg (Config): Config.
        iterations_per_epoch (int, optional): Iterations of the train loop per epoch.

    Returns:
        int, optional: Updates; 0 without a warmup.
    """
    hook = lr_hook(cfg)
    if hook:
        epochs = hook.get('warmup_epochs')
        if epochs is None:
            return hook.get('warmup_iters') or 0
        return iterations_per_epoch and math.floor(epochs * iterations_per_epoch + 0.5)
    reached = warmup_iterations(cfg, iterations_per_epoch)
    return None if reached is None else math.ceil(reached / iterations_per_update(cfg))


def warmup_iterations(cfg: Config, iterations_per_epoch: int | None) -> int | None:
    """Return the length of the warmup of MMEngine's schedulers.

    Args:
        cfg (Config): Config.
        iterations_per_epoch (int, optional): Iterations of the train loop per epoch.

    Returns:
        int, optional: Iterations; 0 without a warmup, None if it is in epochs of unknown length.
    """
    reached = 0
    for scheduler in _schedulers(cfg):
        # Both factors default to 1/3. A factor of 1 or more starts a decay.
        factor = scheduler.get('start_factor', scheduler.get('factor', 1 / 3))
        if type_name(scheduler) not in WARMUPS or factor >= 1:
            continue
        unit = iterations_per_epoch if scheduler.get('by_epoch', True) else 1
        # A later scheduler continues the warmup if it begins where the one before ends.
        if scheduler.get('begin', 0) and (scheduler['begin'] * (unit or 0)) != reached:
            continue
        length = scheduler.get('end')
        if not (length and unit):
            return None
        reached = max(reached, length * unit)
    return reached


def evaluates_last_epoch(cfg: Config) -> bool:
    """Return True if the last epoch is followed by an evaluation."""
    loop = cfg.train_cfg
    return cfg.get('val_dataloader') is not None and loop.get('val_begin', 1) <= loop.max_epochs


def initial_weights(cfg: Config) -> str | None:
    """Return ``load_from``, unless a start resumed from it."""
    begun = cfg.get('first_start') or cfg
    return None if begun.get('resume') else begun.get('load_from')


def recipe_of(cfg: Config) -> dict[str, Any]:
    """Return the config without the seed, the paths and the launch settings."""
    recipe = copy.deepcopy(cfg.to_dict())
    recipe['load_from'] = initial_weights(cfg)
    for name in LAUNCH_KEYS:
        recipe.pop(name, None)
    for hook in hooks_of(recipe):
        hook.pop('out_dir', None)
    recipe['randomness'] = dict(recipe.get('randomness') or {}, seed=None)
    return recipe


def without_lr_and_warmup(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe without the LR and the length of the warmup, which a sweep varies."""
    rest = copy.deepcopy(recipe)
    optimizer_config(rest).pop('lr', None)
    for name in ('warmup_iters', 'warmup_epochs'):
        lr_hook(rest).pop(name, None)
    for scheduler in _schedulers(rest):
        if type_name(scheduler) in WARMUPS:
            scheduler.pop('end', None)
    return rest


def _micro_batch(cfg: Config) -> int | None:
    return (cfg.get('train_dataloader') or {}).get('batch_size')


def _schedulers(cfg: Config | dict[str, Any]) -> list[dict[str, Any]]:
    schedulers = cfg.get('param_scheduler') or []
    return [schedulers] if isinstance(schedulers, dict) else list(schedulers)
