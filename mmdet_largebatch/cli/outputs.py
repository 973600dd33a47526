"""Check the files and folders of a command line, before anything is computed."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from ..checkpoints.finding import POINTER, last_checkpoint
from ..checks import check, invalid
from ..errors import SettingError


def check_checkpoint(name: str, path: str | None) -> str | None:
    """Refuse a checkpoint that is no file. URLs (``scheme://...``) are left to MMEngine.

    Args:
        name (str): The setting that holds the path, for the message.
        path (str, optional): The path.

    Returns:
        str, optional: The path, without ``~``.

    Raises:
        SettingError: If there is no such file, or it is a folder or names another file.
    """
    if path is None:
        return None
    check(isinstance(path, str) and path != '', name, path, 'a checkpoint file, or not set')
    path = os.path.expanduser(path)
    if '://' in path:
        return path
    if not os.path.exists(path):
        raise SettingError(f'{name}={path}: no such checkpoint.')
    folder, file = os.path.split(path)
    if os.path.isdir(path) or file == POINTER:
        newest = last_checkpoint(folder if file == POINTER else path)
        raise invalid(name, path, f'a checkpoint file{f", such as {newest}" if newest else ""}')
    return path


def check_output(name: str, path: str | Path, endings: Sequence[str]) -> None:
    """Refuse an output file that cannot be written. Its folder is made.

    Args:
        name (str): The argument, for the message.
        path (str or Path): The file.
        endings (Sequence[str]): The endings that it may have, such as ``'.png'``.

    Raises:
        SettingError: If its ending is another, or the file cannot be written.
    """
    path = Path(path)
    check(path.suffix.lower() in endings, name, str(path), f'a {" or ".join(endings)} file')
    check(not path.is_dir(), name, str(path), 'a file, not a folder')
    check(not path.exists() or os.access(path, os.W_OK), name, str(path), 'a writable file')
    _check_writable(name, path, path.parent, 'in a writable folder')


def check_folder(name: str, folder: str | Path) -> None:
    """Make a folder, and refuse one in which no file can be written.

    Args:
        name (str): The setting, for the message.
        folder (str or Path): The folder.

    Raises:
        SettingError: If no file can be written in it.
    """
    _check_writable(name, folder, folder, 'a writable folder')


def check_work_dir(cfg: Config) -> None:
    """Make the work folder, and refuse one in which no file can be written.

    Args:
        cfg (Config): The config, with ``work_dir`` set.

    Raises:
        SettingError: If no file can be written in it.
    """
    _check_writable('work_dir', cfg.work_dir, cfg.work_dir, 'a writable folder, see --work-dir')


def _check_writable(name: str, value: str | Path, folder: str | Path, wanted: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix='.writable'):
            pass
    except OSError as error:
        raise invalid(name, str(value), f'{wanted} ({error.strerror})') from error
