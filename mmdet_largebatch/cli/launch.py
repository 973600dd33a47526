"""From the command line to a runner that works on this machine."""

import gc
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from os.path import dirname
from pathlib import Path
from sysconfig import get_path
from traceback import extract_tb
from typing import Any

import mmengine
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..checkpoints import trust_checkpoints
from ..checks import invalid
from ..compat import config_path, lay_out_configs_once
from ..errors import SettingError
from ..hooks.metric_collection_hook import MetricCollectionHook
from ..utils.orphans import watch_parents
from .config_fixes import leave_out_worker_options, take_out_hooks
from .processes import set_slurm_port, use_gloo_without_gpu
from .runner_settings import check_runner_settings


def begin_tool() -> None:
    """End this process with its launcher, and its data workers with this process.

    The start takes no longer than it must: the imported modules are no garbage, which MMEngine
    collects for each data set.
    """
    watch_parents()
    lay_out_configs_once()
    if not gc.get_freeze_count():
        gc.freeze()


class ConfigOptions(DictAction):
    """MMEngine's ``DictAction``, with one line on an option that it cannot read."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Read the options.

        Args:
            parser (ArgumentParser): The parser.
            namespace (Namespace): Gets the options as a dict.
            values (Sequence[str]): ``KEY=VALUE`` each.
            option_string (str, optional): ``--cfg-options``.

        Raises:
            SettingError: If an option is not ``KEY=VALUE``, or a bracket in it is not closed.
        """
        for value in values or ():
            key, _, text = value.partition('=')
            if not all(key.split('.')) or '=' not in value:
                raise invalid('--cfg-options', value, 'KEY=VALUE, as in train_cfg.max_epochs=12')
            if any(text.count(left) != text.count(right) for left, right in ('()', '[]')):
                raise invalid('--cfg-options', value, 'KEY=VALUE with each bracket closed')
        super().__call__(parser, namespace, values, option_string)


def add_cfg_options(parser: ArgumentParser) -> None:
    """Add ``--cfg-options``, and the defaults of a tool on one process.

    Args:
        parser (ArgumentParser): The parser to add to.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=ConfigOptions,
        metavar='KEY=VALUE',
        help='settings that replace those of the config, as in optim_wrapper.optimizer.lr=0.002',
    )
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)


def add_common_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that mmdet's ``train.py`` and ``test.py`` both have.

    Args:
        parser (ArgumentParser): The parser to add to.
    """
    add_cfg_options(parser)
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that name code as well, which then runs',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='what started the processes; dist_train.sh sets pytorch',
    )
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='set by launchers'
    )


def load_config(args: Namespace) -> Config:
    """Load the config of a tool's command line.

    Args:
        args (Namespace): The parsed ``config``, ``work_dir``, ``cfg_options``, ``launcher`` and
            ``local_rank``.

    Returns:
        Config: The config with the settings of the command line, and ``work_dir`` set.

    Raises:
        SettingError: If there is no such file, the config or the command line cannot be read, or a
            setting of the runner is wrong.
    """
    path = _config_file(args.config)
    trust_checkpoints(getattr(args, 'trust_checkpoint', False))
    if args.launcher != 'none':
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # A config is a program, which may raise anything.
        raise SettingError(f'config={args.config}: cannot be read ({_as_line(error)}).') from error
    _refuse_version_2(args.config, cfg)
    cfg.launcher = args.launcher
    if args.cfg_options:
        try:
            cfg.merge_from_dict(args.cfg_options)
        except (KeyError, TypeError, AttributeError) as error:
            raise SettingError(f'--cfg-options: cannot be merged ({_as_line(error)}).') from error
    take_out_hooks(cfg)
    leave_out_worker_options(cfg)
    check_runner_settings(cfg)
    if args.work_dir:
        cfg.work_dir = str(args.work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def _refuse_version_2(name: str, cfg: Config) -> None:
    """Refuse a config of MMDetection 2, which has none of today's data loaders."""
    old = [
        key for key in ('data', 'optimizer', 'lr_config', 'runner', 'total_epochs') if key in cfg
    ]
    today = [f'{split}_dataloader' for split in ('train', 'val', 'test')]
    if 'data' in old and len(old) > 1 and not set(today) & set(cfg):
        raise SettingError(
            f'config={name}: of MMDetection 2 ({", ".join(old)}). Must be of MMDetection 3, with '
            'train_dataloader, optim_wrapper and train_cfg.'
        )


def _config_file(name: str) -> str:
    """Return the file of a config, given as a path or as PACKAGE::FOLDER/FILE.py."""
    if '::' in name:
        try:
            return config_path(name)
        except (AssertionError, ModuleNotFoundError, FileNotFoundError, ValueError) as error:
            raise SettingError(f'config={name}: not found ({_as_line(error)}).') from error
    if not os.path.isfile(name):
        raise SettingError(f'config={name}: no such file.')
    return name


def _as_line(error: BaseException) -> str:
    """Return an error in one line, with the line of code that raised it, without the full stop."""
    module = ''
    # MMEngine replaces an error in `custom_imports` by two of its own, with all of `sys.path`.
    while isinstance(error, ImportError) and str(error).startswith('Failed to import '):
        cause = error.__cause__ or error.__context__
        if cause is None:
            break
        module, error = str(error).split()[-1], cause
    line = f'{type(error).__name__}: {" ".join(str(error).split())}'.rstrip('.')
    if isinstance(error, ModuleNotFoundError) and f'{module}.'.startswith(f'{error.name}.'):
        return f'{line}; it must be installed, or PYTHONPATH have its folder'
    place = None if isinstance(error, SyntaxError) else _place(error)
    return f'{line}, at {place}' if place else line


def _place(error: BaseException) -> str | None:
    """Return FILE:LINE of the last code of a user, or of an installed package, in a traceback."""
    place = None
    for frame in extract_tb(error.__traceback__):
        file = frame.filename
        standard = file.startswith((get_path('stdlib'), '<')) and 'site-packages' not in file
        if not standard and file != __file__ and not file.startswith(dirname(mmengine.__file__)):
            place = f'{file}:{frame.lineno}'
    return place


def check_settings(cfg: Config, names: list[str]) -> None:
    """Refuse a config that lacks a setting of the tool.

    Args:
        cfg (Config): The config.
        names (list[str]): The settings, such as ``'test_dataloader'``.

    Raises:
        SettingError: If one is not set.
    """
    for name in names:
        if cfg.get(name) is None:
            raise SettingError(f'{name} is not set. Must be, for this tool.')


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config, on gloo where there is no GPU.

    Args:
        cfg (Config): The config.

    Returns:
        Runner: The runner.
    """
    set_slurm_port(cfg)
    use_gloo_without_gpu(cfg)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if runner.world_size > 1:
        runner.register_hook(MetricCollectionHook())
    return runner
