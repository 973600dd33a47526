"""Refuse a place for results that cannot be written, before they are computed."""

import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from ..errors import SettingError


def check_output(name: str, path: str | Path, endings: Collection[str]) -> None:
    """Make the folder of a file that is to be written, and refuse one that cannot be.

    Args:
        name (str): The argument, for the message.
        path (str or Path): The file.
        endings (Collection[str]): The endings that it may have, such as ``'.png'``.

    Raises:
        SettingError: If its ending is another, or no file can be made in its folder.
    """
    path = Path(path)
    if path.suffix.lower() not in endings:
        raise SettingError(f'{name}={path}: must end in {" or ".join(endings)}.')
    if path.is_dir():
        raise SettingError(f'{name}={path}: a folder. Must be a file.')
    if path.exists() and not os.access(path, os.W_OK):
        raise SettingError(f'{name}={path}: cannot be written. Must be a file with permission.')
    _check_writable(f'{name}={path}', path.parent, '')


def check_folder(name: str, folder: str | Path, advice: str = '') -> None:
    """Make a folder, and refuse one that cannot be written.

    Args:
        name (str): The setting, for the message.
        folder (str or Path): The folder.
        advice (str): What ends the message. Defaults to ''.

    Raises:
        SettingError: If no file can be made in it.
    """
    _check_writable(f'{name}={folder}', folder, advice)


def _check_writable(setting: str, folder: str | Path, advice: str) -> None:
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix='.writable'):
            pass
    except OSError as error:
        raise SettingError(
            f'{setting}: no file can be written there ({error.strerror}). Must be a folder '
            f'with room and permission{advice}.'
        ) from error
