"""List the trials of a sweep, write their configs and read their results."""

import random
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checkpoints.atomic_file import AtomicFileBackend
from ..checks import check, invalid
from ..errors import SettingError
from ..results import Run, read_run
from ..results.settings import check_by_epoch, lr_hook, optimizer_config
from ..utils.config_text import config_text
from ..utils.type_names import type_name

# Diverged and NaN runs count as finished.
FINISHED = ('done', 'diverged', 'nan')


@dataclass(frozen=True)
class Trial:
    """One run of a sweep. None keeps the recipe's value.

    Args:
        folder (Path): Work folder.
        lr (float, optional): LR after the warmup.
        warmup_iters (int, optional): Length of the warmup in updates.
        seed (int, optional): Seed.
    """

    folder: Path
    lr: float | None
    warmup_iters: int | None
    seed: int | None

    @property
    def config(self) -> Path:
        """Path: Config, next to the work folder."""
        return self.folder.with_name(f'{self.folder.name}.py')

    @property
    def output(self) -> Path:
        """Path: Output of the processes."""
        return self.folder / 'output.txt'


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
    if trial.lr is not None:
        if 'lr' not in optimizer_config(cfg):
            raise SettingError('--lr sets optim_wrapper.optimizer.lr, which the config has not.')
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


def write_config(trial: Trial, cfg: Config) -> None:
    """Write the config of a trial. A trial that has started must have the same config.

    Args:
        trial (Trial): Trial.
        cfg (Config): Config of the trial.

    Raises:
        SettingError: If the trial was started with another config.
    """
    if trial.config.exists() and trial.folder.exists():
        before = Config.fromfile(trial.config, import_custom_modules=False)
        for key, old, new in _differences(before.to_dict(), cfg.to_dict()):
            raise SettingError(
                f'--work-dir {trial.folder.parent} holds a sweep with other settings: {key} is '
                f'{new} now and was {old}. Must be another folder, or the same settings.'
            )
    else:
        trial.config.parent.mkdir(parents=True, exist_ok=True)
        AtomicFileBackend().put_text(config_text(cfg), trial.config)


def _differences(old: Any, new: Any, key: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Yield the key and both values of each difference between two configs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            where = f'{key}.{name}' if key else name
            yield from _differences(old.get(name), new.get(name), where)
    elif _plain(old) != _plain(new):
        yield key, old, new


def _plain(value: Any) -> Any:
    """Convert tuples to lists, which a command line does not tell apart."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def finished_run(trial: Trial) -> Run | None:
    """Return the run of a finished trial.

    Args:
        trial (Trial): Trial.

    Returns:
        Run, optional: Run; None if the trial is not finished.
    """
    if not trial.folder.is_dir():
        return None
    try:
        run = read_run(trial.folder)
    except SettingError:
        return None  # Stopped before it logged anything.
    return run if run.status in FINISHED else None
