"""Read the settings of a training from the config that MMEngine dumped."""

import copy
import math
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import SettingError
from ..hooks.warmup_step_lr_hook import SCALE_EXPONENTS
from ..utils.type_names import type_name

# What a config says of the place and the start, not of the recipe.
OF_THE_PLACE = ('work_dir', 'resume', 'launcher', 'visualizer', 'vis_backends', 'log_level')
# Of MMEngine's schedulers, those that lead up to the LR where they start at the first iteration.
WARMUPS = ('LinearLR', 'ConstantLR', 'QuadraticWarmupLR')


def check_by_epoch(cfg: Config, work_dir: str | Path) -> None:
    """Refuse a training that does not count in epochs.

    Args:
        cfg (Config): The config.
        work_dir (str or Path): The work folder, for the message.

    Raises:
        SettingError: If it counts in iterations.
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


def check_logged(cfg: Config) -> None:
    """Refuse a recipe whose trainings leave nothing to be compared by.

    Args:
        cfg (Config): The config.

    Raises:
        SettingError: If it does not count in epochs, or keeps no log in its work folder.
    """
    check_by_epoch(cfg, cfg.work_dir)
    if not (cfg.get('log_processor') or {}).get('by_epoch', True):
        raise SettingError(
            'log_processor.by_epoch=False. Must be True: results are listed by epoch.'
        )
    hooks = cfg.get('default_hooks') or {}
    if 'logger' in hooks and hooks['logger'] is None:
        raise SettingError(
            'default_hooks.logger=None logs nothing that results could be read from. Must be a '
            'LoggerHook.'
        )
    if not (hooks.get('logger') or {}).get('keep_local', True):
        raise SettingError(
            'default_hooks.logger.keep_local=False removes the logs that results are read from. '
            'Must be True.'
        )


def optimizer_config(cfg: Config | dict[str, Any]) -> dict[str, Any]:
    """Return the config of the optimizer.

    Args:
        cfg (Config or dict): The config.

    Returns:
        dict: Empty where there are several.
    """
    return (cfg.get('optim_wrapper') or {}).get('optimizer') or {}


def lr_hook(cfg: Config | dict[str, Any]) -> dict[str, Any]:
    """Return the config of :class:`WarmupStepLRHook`.

    Args:
        cfg (Config or dict): The config.

    Returns:
        dict: It, a part of ``cfg``; empty where there is none.
    """
    hooks = [hook for hook in (cfg.get('default_hooks') or {}).values() if hook]
    return next((hook for hook in hooks if type_name(hook) == 'WarmupStepLRHook'), {})


def iterations_per_update(cfg: Config) -> int:
    """Iterations of the train loop that make up one optimizer update.

    Args:
        cfg (Config): The config.

    Returns:
        int: ``accumulative_counts``, 1 under :class:`GlobalBatchTrainLoop`.
    """
    return (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def global_batch(cfg: Config, ranks: int | None) -> int | None:
    """Images that one update learns from.

    Args:
        cfg (Config): The config.
        ranks (int, optional): Number of processes.

    Returns:
        int, optional: ``train_cfg.global_batch_size``, or what the ranks make up together.
    """
    if 'global_batch_size' in cfg.train_cfg:
        return cfg.train_cfg.global_batch_size
    micro_batch = _micro_batch(cfg)
    return ranks and micro_batch and ranks * micro_batch * iterations_per_update(cfg)


def max_updates(cfg: Config, updates_per_epoch: int | None) -> int | None:
    """Updates after which :class:`GlobalBatchTrainLoop` cuts a training short.

    Args:
        cfg (Config): The config.
        updates_per_epoch (int, optional): Updates in one epoch.

    Returns:
        int, optional: ``train_cfg.max_updates``, None where the training ends no later without.
    """
    wanted = cfg.train_cfg.get('max_updates')
    whole = updates_per_epoch and cfg.train_cfg.max_epochs * updates_per_epoch
    return None if wanted is None or (whole and wanted >= whole) else wanted


def base_lr(cfg: Config, ranks: int | None) -> float | None:
    """LR after the warmup, scaled as the training scales it.

    Args:
        cfg (Config): The config.
        ranks (int, optional): Number of processes.

    Returns:
        float, optional: The LR.
    """
    lr, hook = optimizer_config(cfg).get('lr'), lr_hook(cfg)
    stock = cfg.get('auto_scale_lr') or {}
    if lr is None:
        return None
    if hook and hook.get('scale_rule'):
        batch, base, exponent = (
            global_batch(cfg, ranks),
            hook['base_batch_size'],
            SCALE_EXPONENTS[hook['scale_rule']],
        )
    elif stock.get('enable'):
        # MMEngine's own scaling does not count what is accumulated.
        micro_batch, base, exponent = _micro_batch(cfg), stock['base_batch_size'], 1.0
        batch = ranks and micro_batch and ranks * micro_batch
    else:
        return lr
    return batch and lr * (batch / base) ** exponent


def warmup_updates(cfg: Config, iterations_per_epoch: int | None) -> int | None:
    """Length of the warmup.

    Args:
        cfg (Config): The config.
        iterations_per_epoch (int, optional): Iterations of the train loop in one epoch.

    Returns:
        int, optional: Updates; 0 without a warmup.
    """
    hook = lr_hook(cfg)
    if hook:
        epochs = hook.get('warmup_epochs')
        if epochs is None:
            return hook.get('warmup_iters') or 0
        return iterations_per_epoch and math.floor(epochs * iterations_per_epoch + 0.5)
    reached = 0
    for scheduler in _schedulers(cfg):
        # Both factors are 1/3 by default. From 1 downwards it is a decay.
        factor = scheduler.get('start_factor', scheduler.get('factor', 1 / 3))
        if type_name(scheduler) not in WARMUPS or factor >= 1:
            continue
        unit = iterations_per_epoch if scheduler.get('by_epoch', True) else 1
        # One that begins later leads up to the LR where it takes over from the one before.
        if scheduler.get('begin', 0) and (scheduler['begin'] * (unit or 0)) != reached:
            continue
        length = scheduler.get('end')
        if not (length and unit):
            return None
        reached = max(reached, length * unit)
    return math.ceil(reached / iterations_per_update(cfg))


def evaluates_last_epoch(cfg: Config) -> bool:
    """Return True if an evaluation follows the last epoch.

    Args:
        cfg (Config): The config.

    Returns:
        bool: True if so.
    """
    loop = cfg.train_cfg
    return cfg.get('val_dataloader') is not None and loop.get('val_begin', 1) <= loop.max_epochs


def recipe_of(cfg: Config) -> dict[str, Any]:
    """Return the config without the seed, the paths and the launch settings.

    Args:
        cfg (Config): The config.

    Returns:
        dict: To be compared.
    """
    recipe = copy.deepcopy(cfg.to_dict())
    # Where a run was resumed from, and not what it began with.
    recipe['load_from'] = None if recipe.get('resume') else recipe.get('load_from')
    for name in OF_THE_PLACE:
        recipe.pop(name, None)
    recipe['randomness'] = dict(recipe.get('randomness') or {}, seed=None)
    return recipe


def without_lr_and_warmup(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the runs of a sweep share.

    Args:
        recipe (dict): From :func:`recipe_of`.

    Returns:
        dict: It without the LR and the length of the warmup.
    """
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
