"""End a command-line tool with one line on a user's mistake."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmdet.registry import OPTIMIZERS
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from ..checkpoints import checkpoint_defect
from ..errors import DivergenceError, PictureError, SettingError
from ..utils.exit_codes import (
    DIVERGED,
    STATUS_FILE,
    WRONG_SETTING,
    Preempted,
    exit_training,
    final_status,
    tell_launcher,
)
from .outputs import check_folder


def check_checkpoint(name: str, path: str | None) -> None:
    """Refuse a checkpoint that is not there. Addresses (``scheme://...``) are left to MMEngine.

    Args:
        name (str): The setting that holds the path, for the message.
        path (str, optional): The path.

    Raises:
        SettingError: If there is no such file.
    """
    if path and '://' not in path and not os.path.isfile(path):
        raise SettingError(f'{name}={path}: no such checkpoint.')


def check_work_dir(cfg: Config) -> None:
    """Make the work folder and refuse one that cannot be written, before anything is built.

    Args:
        cfg (Config): The config, with ``work_dir`` set.

    Raises:
        SettingError: If no file can be made in it.
    """
    check_folder('work_dir', cfg.work_dir, '; set it by --work-dir')


def _broken_checkpoint(cfg: Config) -> str | None:
    """Return the defect of the checkpoint that a run loads."""
    path = cfg.get('load_from')
    if not path or not os.path.isfile(path):
        return None
    defect = checkpoint_defect(path)
    return defect and f'checkpoint={path}: {defect}.'


def _unknown_optimizer(cfg: Config) -> str | None:
    """MMEngine fails on an optimizer's name that is not registered without saying the name."""
    name = (cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('type')
    if isinstance(name, str) and OPTIMIZERS.get(name) is None:
        return f'optim_wrapper.optimizer.type={name}: no optimizer of this name is registered.'
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [''])[0]


def _saved_before(error: Exception, cfg: Config | None, trains: bool) -> str:
    """Name the checkpoint to resume from, for a training that met a broken picture."""
    if not isinstance(error, PictureError) or not cfg or not trains:
        return ''
    pointer = Path(cfg.work_dir) / 'last_checkpoint'
    newest = pointer.is_file() and find_latest_checkpoint(cfg.work_dir)
    return f' --resume then goes on from {newest}.' if newest else ''


def _explain(error: Exception, cfg: Config | None, trains: bool) -> str | None:
    """Return the line for a user's mistake; None for any other error."""
    if isinstance(error, DivergenceError):
        return str(error)
    if isinstance(error, SettingError):
        return str(error) + _saved_before(error, cfg, trains)
    if isinstance(error, KeyError) and ' is not in the ' in str(error):
        return _first_line(error).strip('\'"').split('. Please')[0] + '.'
    if 'should be either all None or not None' in str(error):
        return _first_line(error).split(', but got')[0] + '.'
    if isinstance(error, ImportError) and str(error).startswith('Failed to import '):
        # A name of a pure-Python config, with the file and the line that it is imported in.
        return _first_line(error) + '.'
    if 'only available training on gpu' in ' '.join(str(error).split()):
        return 'optim_wrapper.type=AmpOptimWrapper (--amp) needs a GPU and none is visible.'
    if cfg is None:
        return None
    return _broken_checkpoint(cfg) or _unknown_optimizer(cfg)


@contextmanager
def one_line_errors(trains: bool = False) -> Iterator[dict[str, Config]]:
    """End the program with one line, with status 2 on a user's mistake, 3 on a divergence.

    A :class:`SettingError` is a mistake. So is an error that a library raised where the
    checkpoint turns out to be broken. Any other error keeps its traceback.
    Of several processes one on each machine speaks, and ``torchrun.py`` starts none again, also
    where the mistake met one rank alone.

    Args:
        trains (bool): Whether the tool trains. Defaults to False.

    Yields:
        dict[str, Config]: A place for the config, under ``'cfg'``, once it is loaded.
    """
    context: dict[str, Config] = {}
    try:
        yield context
    except Preempted as end:
        exit_training(end.code, restart=True)
    except SystemExit as end:
        # Of argparse.
        if end.code == WRONG_SETTING:
            tell_launcher(WRONG_SETTING, restart=False)
        raise
    except Exception as error:
        line = _explain(error, context.get('cfg'), trains)
        if line is None:
            # Where another rank ended with its line, this one failed for its absence.
            if (status := final_status()) is not None:
                sys.exit(status)
            raise
        status = DIVERGED if isinstance(error, DivergenceError) else WRONG_SETTING
        speaks = tell_launcher(status, restart=False)
        # Of a mistake that one rank alone meets, that rank tells.
        if speaks or (getattr(error, 'alone', False) and STATUS_FILE not in os.environ):
            print(f'error: {line}', file=sys.stderr, flush=True)
        if status == DIVERGED:
            exit_training(DIVERGED, restart=False)
        sys.exit(status)
