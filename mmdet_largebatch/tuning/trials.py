"""List the trials of a sweep, and make their configs."""

import os
import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checks import check, invalid
from ..errors import SettingError
from ..results.settings import (
    check_by_epoch,
    check_lr_is_followed,
    hooks_of,
    lr_hook,
    optimizer_config,
)
from ..utils.type_names import type_name
from .training_job import TrainingJob


@dataclass(frozen=True)
class Trial(TrainingJob):
    """One run of a sweep. None keeps the recipe's value.

    Args:
        folder (Path): Work folder.
        lr (float, optional): LR after the warmup.
        warmup_iters (int, optional): Length of the warmup in updates.
        seed (int, optional): Seed.
    """

    lr: float | None
    warmup_iters: int | None
    seed: int | None


def combinations(
    folder: Path,
    lrs: Sequence[float],
    warmups: Sequence[int],
    seeds: Sequence[int],
    samples: int | None = None,
    sample_seed: int = 0,
) -> list[Trial]:
    """List all combinations of the values, or a random sample.

    Args:
        folder (Path): Parent of the work folders, which are named by their values.
        lrs (Sequence[float]): LRs after the warmup; empty for the recipe's LR.
        warmups (Sequence[int]): Lengths of the warmup in updates; empty for the recipe's warmup.
        seeds (Sequence[int]): Seeds; empty for the recipe's seed.
        samples (int, optional): Pairs of LR and warmup to draw without replacement, each with all
            seeds. None for all pairs. Defaults to None.
        sample_seed (int): Seed of the draw. Defaults to 0.

    Returns:
        list[Trial]: Trials, in the order of the values.

    Raises:
        SettingError: If there are fewer pairs than samples.
    """
    values: list[list[Any]] = [list(dict.fromkeys(x)) or [None] for x in (lrs, warmups, seeds)]
    pairs = list(product(*values[:2]))
    if samples is not None:
        if samples > len(pairs):
            most = f'<= {len(pairs)}, the number of pairs of --lr and --warmup-iters'
            raise invalid('--samples', samples, most)
        chosen = random.Random(sample_seed).sample(range(len(pairs)), samples)
        pairs = [pairs[index] for index in sorted(chosen)]
    return [
        Trial(folder / _name(lr, warmup, seed), lr, warmup, seed)
        for (lr, warmup), seed in product(pairs, values[2])
    ]


def _name(lr: float | None, warmup: int | None, seed: int | None) -> str:
    parts = dict(lr=lr, warmup=warmup, seed=seed)
    written = [f'{key}{value}' for key, value in parts.items() if value is not None]
    return '_'.join(written) or 'recipe'


def trial_config(cfg: Config, trial: Trial, updates: int | None = None) -> Config:
    """Return the config of a trial.

    Args:
        cfg (Config): Recipe; not changed.
        trial (Trial): Trial.
        updates (int, optional): Updates after which the run is cut short. Defaults to None.

    Returns:
        Config: Copy of the recipe with the values of the trial.

    Raises:
        SettingError: If the recipe lacks the setting of a value, or its runs leave no results.
    """
    cfg = deepcopy(cfg)
    cfg.work_dir = str(trial.folder)
    for hook in hooks_of(cfg):
        if hook.get('out_dir'):
            # MMEngine adds the name of the work folder, which trials elsewhere have too.
            parent = os.path.abspath(trial.folder.parent).lstrip('/')
            hook['out_dir'] = f'{hook["out_dir"].rstrip("/")}/{parent}'
    if trial.lr is not None:
        if 'lr' not in optimizer_config(cfg):
            raise SettingError('--lr sets optim_wrapper.optimizer.lr, which the config has not.')
        check_lr_is_followed(cfg, 'with --lr')
        cfg.optim_wrapper.optimizer.lr = trial.lr
    if trial.warmup_iters is not None:
        hook = lr_hook(cfg)
        if not hook:
            raise SettingError(
                '--warmup-iters sets default_hooks.lr.warmup_iters. The config must have '
                "default_hooks.lr of type 'WarmupStepLRHook'."
            )
        hook.update(warmup_iters=trial.warmup_iters, warmup_epochs=None)
    if trial.seed is not None:
        cfg.randomness = dict(cfg.get('randomness') or {}, seed=trial.seed)
    if updates is not None:
        kind = type_name(cfg.train_cfg) or None
        if kind != 'GlobalBatchTrainLoop':
            raise SettingError(
                f'--updates {updates} needs train_cfg.type=GlobalBatchTrainLoop; it is {kind}.'
            )
        cfg.train_cfg.max_updates = updates
    _check_logged(cfg)
    _log_locally(cfg)
    return cfg


def _check_logged(cfg: Config) -> None:
    """Refuse a recipe whose runs could not be compared."""
    check_by_epoch(cfg, cfg.work_dir)
    by_epoch = (cfg.get('log_processor') or {}).get('by_epoch', True)
    check(by_epoch, 'log_processor.by_epoch', False, 'True: results are listed by epoch')
    hooks = cfg.get('default_hooks') or {}
    if 'logger' in hooks and hooks['logger'] is None:
        raise invalid('default_hooks.logger', None, 'a LoggerHook: results are read from its log')
    keep = (hooks.get('logger') or {}).get('keep_local', True)
    check(keep, 'default_hooks.logger.keep_local', False, 'True: results are read from that log')


def _log_locally(cfg: Config) -> None:
    """Add ``LocalVisBackend`` to a recipe that logs only elsewhere, such as to TensorBoard."""
    visualizer = cfg.get('visualizer')
    if visualizer is None:
        return  # MMEngine's default logs locally.
    backends = list(visualizer.get('vis_backends') or [])
    if 'LocalVisBackend' not in map(type_name, backends):
        visualizer.vis_backends = [*backends, dict(type='LocalVisBackend')]
