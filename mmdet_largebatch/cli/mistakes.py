"""A user's mistake ends a command-line tool with one line."""

import os
import sys
import tempfile
from contextlib import contextmanager
from typing import Dict, Iterator, Optional

from mmdet.registry import OPTIMIZERS
from mmengine.config import Config

from ..checkpoints import checkpoint_defect
from ..errors import DivergenceError, SettingError
from ..exit_status import DIVERGED, WRONG_SETTING, begin_anew, leave


def check_checkpoint(name: str, path: Optional[str]) -> None:
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
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cfg.work_dir, prefix='.writable'):
            pass
    except OSError as error:
        raise SettingError(
            f'work_dir={cfg.work_dir}: no file can be written there ({error.strerror}). Must be a '
            'folder with room and permission; set it by --work-dir.'
        ) from error


def _broken_checkpoint(cfg: Config) -> Optional[str]:
    """What is wrong with the checkpoint that a run loads, if it does not read."""
    path = cfg.get('load_from')
    if not path or not os.path.isfile(path):
        return None
    defect = checkpoint_defect(path)
    return defect and f'checkpoint={path}: {defect}.'


def _unknown_optimizer(cfg: Config) -> Optional[str]:
    """MMEngine fails on an optimizer's name that is not registered without saying the name."""
    name = (cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('type')
    if isinstance(name, str) and OPTIMIZERS.get(name) is None:
        return f'optim_wrapper.optimizer.type={name}: no optimizer of this name is registered.'
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [''])[0]


def _explain(error: Exception, cfg: Optional[Config]) -> Optional[str]:
    """The one line that tells a user's mistake, or None where the error is not one."""
    if isinstance(error, (DivergenceError, SettingError)):
        return str(error)
    if isinstance(error, KeyError) and ' is not in the ' in str(error):
        return _first_line(error).strip('\'"').split('. Please')[0] + '.'
    if 'only available training on gpu' in ' '.join(str(error).split()):
        return 'optim_wrapper.type=AmpOptimWrapper (--amp) needs a GPU and none is visible.'
    if cfg is None:
        return None
    return _broken_checkpoint(cfg) or _unknown_optimizer(cfg)


@contextmanager
def one_line_errors() -> Iterator[Dict[str, Config]]:
    """End the program with one line, with status 2 on a user's mistake, 3 on a divergence.

    A :class:`SettingError` is a mistake. So is an error that a library raised where the
    checkpoint turns out to be broken. Any other error keeps its traceback.
    Of several processes the first one on each machine speaks.

    Yields:
        Dict[str, Config]: A place for the config, under ``'cfg'``, once it is loaded.
    """
    context: Dict[str, Config] = {}
    begin_anew()
    try:
        yield context
    except Exception as error:
        line = _explain(error, context.get('cfg'))
        if line is None:
            raise
        if os.environ.get('LOCAL_RANK', '0') == '0':
            print(f'error: {line}', file=sys.stderr, flush=True)
        if isinstance(error, DivergenceError):
            leave(DIVERGED, again=False)
        sys.exit(WRONG_SETTING)
