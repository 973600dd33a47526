"""Name an argument that a class of a config does not take, or lacks."""

import re
from traceback import walk_tb

from mmengine.registry import build_from_cfg

from ..checks import invalid
from ..utils.type_names import type_name

UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r'\.__init__\(\) missing \d+ required [\w-]+ arguments?: (.+)')


def wrong_argument(error: Exception) -> str | None:
    """Explain the ``TypeError`` of a class whose config does not fit its constructor.

    Args:
        error (Exception): An error of any kind.

    Returns:
        str, optional: One line for the user. None for another error, such as a wrong call within
        the constructor of a user's class.
    """
    if not isinstance(error, TypeError):
        return None
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    unknown, missing = UNKNOWN.search(str(error)), MISSING.search(str(error))
    # A constructor may pass arguments on to that of its base class, which refuses them.
    while unknown and frames and frames[-1].f_code.co_name == '__init__':
        bases = type(frames.pop().f_locals.get('self')).__mro__
        if unknown[1] not in {base.__name__ for base in bases}:
            return None
    if not frames or frames[-1].f_code is not build_from_cfg.__code__:
        return None
    config = frames[-1].f_locals['cfg']
    kind = type_name(config)
    if unknown and unknown[2] in config:
        name, value = unknown[2], config[unknown[2]]
        return str(invalid(f'{kind}.{name}', value, f'left out: {kind} does not take it'))
    if missing:
        names = ', '.join(re.findall(r"'(\w+)'", missing[1]))
        return f'{kind} lacks {names}. Must be set in its config.'
    return None
