"""Name an optional package that a part of a config needs and that is not installed."""

import re
from traceback import walk_tb

from mmengine.registry import build_from_cfg

from ..utils.type_names import type_name

# As MMDetection, MMEngine and MMCV say it.
ASKS = re.compile(r'not installed|pip install|[Pp]lease (try to )?install ')


def missing_package(error: Exception) -> str | None:
    """Explain the error of a class that asks for a package.

    Args:
        error (Exception): An error of any kind.

    Returns:
        str, optional: One line for the user, with the name of the class. None for another error.
    """
    if not isinstance(error, (ImportError, RuntimeError, AssertionError)):
        return None
    text = str(error)
    if 'Original Traceback' in text:
        # A data worker's error, with its traceback.
        text = text.strip().splitlines()[-1].partition('Error: ')[2]
    if not ASKS.search(text):
        return None
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    built = [x.f_locals['cfg'] for x in frames if x.f_code is build_from_cfg.__code__]
    name = f'{type_name(built[-1])}: ' if built else ''
    return f'{name}{" ".join(text.split()).rstrip(".")}.'
