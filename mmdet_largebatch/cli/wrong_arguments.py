"""Name an argument that a class of a config does not take, lacks, or refuses."""

import linecache
import re
import sys
from traceback import walk_tb
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.registry import build_from_cfg
from mmengine.runner import Runner

from ..checks import invalid
from ..utils.config_parts import config_parts
from ..utils.type_names import type_name

UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r'\.__init__\(\) missing \d+ required [\w-]+ arguments?: (.+)')
# Where an error in a constructor is one of its settings. A user's own class may have a fault.
LIBRARIES = {'mmdet', 'mmengine', 'mmcv', 'torch', 'numpy', *sys.stdlib_module_names}


def wrong_argument(error: Exception, cfg: Config) -> str | None:
    """Name an argument that a class of a config does not take, or lacks.

    Args:
        error (Exception): An error of any kind.
        cfg (Config): The config of the run.

    Returns:
        str, optional: One line for the user. None for another error, such as a wrong call within
        the constructor of a user's class.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if not isinstance(error, TypeError) or not frames:
        return None
    return _of_a_constructor(error, frames) or _of_a_hook(error, frames[-1], cfg)


def refused_value(error: Exception, cfg: Config) -> str | None:
    """Name the part of a config whose values the constructor of a library's class refuses.

    Args:
        error (Exception): An error of any kind.
        cfg (Config): The config of the run.

    Returns:
        str, optional: One line for the user, with the library's words. None for another error, such
        as that of a user's class.
    """
    frames = list(walk_tb(error.__traceback__))
    builders = (build_from_cfg.__code__, Runner.build_dataloader.__code__)
    places = [i for i, (frame, _) in enumerate(frames) if frame.f_code in builders]
    if not places or not isinstance(error, (TypeError, ValueError, AssertionError, KeyError)):
        return None
    builder, below = frames[places[-1]][0], frames[places[-1] + 1 :]
    made = builder.f_locals
    if builder.f_code is build_from_cfg.__code__:
        part, kind = made['cfg'], type_name(made['cfg'])
        maker = getattr(made.get('obj_cls'), '__module__', '')
    else:
        part, kind, maker = made['dataloader'], 'DataLoader', 'torch'
        if made.get('collate_fn', '') is None:
            name = f'{_name(cfg, part) or kind}.collate_fn.type'
            return str(invalid(name, made['collate_fn_type'], 'the name of a registered function'))
    modules = [maker, *(str(frame.f_globals.get('__name__', '')) for frame, _ in below)]
    if not {module.split('.')[0] for module in modules} <= LIBRARIES:
        return None
    path = _name(cfg, part)
    name = f'{path} ({kind})' if path else kind
    return f'Invalid {name}: {_reason(error, *frames[-1])}.'


def _reason(error: Exception, last: FrameType, line: int) -> str:
    """Return the words of an error, or the assertion of one without words."""
    code = linecache.getline(last.f_code.co_filename, line).strip()
    words = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    words = ' '.join(words.split()).rstrip('.')
    if not code.startswith(('raise ', 'assert ')):
        return f'{type(error).__name__}: {words}'
    return words or f'it must hold: {code.removeprefix("assert ")}'


def _of_a_constructor(error: TypeError, frames: list[FrameType]) -> str | None:
    """Name an argument that a constructor does not take, or lacks."""
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


def _of_a_hook(error: TypeError, last: FrameType, cfg: Config) -> str | None:
    """Name an argument of a hook that the class to which it passes it does not take."""
    unknown = UNKNOWN.search(str(error))
    if not unknown or last.f_code is not Runner.call_hook.__code__:
        return None
    kind, key = type(last.f_locals['hook']).__name__, unknown[2]
    for name, part in config_parts(dict(cfg.items())):
        if type_name(part) == kind and key in part:
            return str(
                invalid(f'{name}.{key}', part[key], f'left out: {unknown[1]} does not take it')
            )
    return None


def _name(cfg: Config, part: Any) -> str | None:
    """Return the name of a part of a config, None where it is not there once alone."""
    parts = list(config_parts(dict(cfg.items())))
    # As text: arrays in a pure-Python config cannot be compared.
    same = [name for name, x in parts if repr(x) == repr(part)]
    if len(same) != 1:
        # A constructor may have changed its config, and a data set may be given twice. A loader
        # has no type.
        key = 'type' if 'type' in part else 'dataset'
        same = [name for name, x in parts if repr(x.get(key)) == repr(part.get(key))]
    return same[0] if len(same) == 1 else None
