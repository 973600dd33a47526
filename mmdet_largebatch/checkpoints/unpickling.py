"""Load a checkpoint without running code that it names.

A checkpoint is a pickle, and a pickle may call anything that can be imported. PyTorch's
``weights_only`` unpickler calls only the functions of a table. This module extends the table by the
types that MMEngine saves of a training: loss histories with their NumPy arrays, and the parts of a
config that a dataset's metainfo holds. Arrays and dtypes are read by functions of this module,
because NumPy's own ``__setstate__`` trusts its input.
"""

import re
from _compat_pickle import IMPORT_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any, cast
from zipfile import is_zipfile

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from ..errors import SettingError

SWITCH = '--trust-checkpoint'
_torch_load = torch.load
_trusted = False


class UnsafeCheckpoint(SettingError):
    """A checkpoint that names code to run.

    Args:
        file (Any): The file.
        reason (str): The part of the sentence that says what it names.
    """

    def __init__(self, file: Any, reason: str) -> None:
        self.defect = (
            f'it is not loaded, since {reason}, which could run code; if you trust the file, add '
            f'{SWITCH}'
        )
        super().__init__(f'checkpoint={file}: {self.defect}.')


def trust_checkpoints(trusted: bool) -> None:
    """Allow or forbid that checkpoints run code in this process.

    Args:
        trusted (bool): True to load checkpoints as ``pickle`` does.
    """
    global _trusted
    _trusted = trusted


def load_safely(
    file: Any,
    map_location: str | Callable | None = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
) -> Any:
    """Load a checkpoint as ``torch.load`` does, with the arguments that MMEngine passes.

    Raises:
        UnsafeCheckpoint: If the file names code, and checkpoints are not trusted.
        UnpicklingError: If the file is not a checkpoint.
    """
    if _trusted:
        return _torch_load(file, map_location=map_location, weights_only=False, mmap=mmap)
    try:
        with _own_globals():
            content = _torch_load(file, map_location=map_location, weights_only=True, mmap=mmap)
    except UnpicklingError as error:
        text = str(error).split('WeightsUnpickler error: ')[-1]
        found = re.search(r'GLOBAL (\S+)', text)
        if found is None and not is_zipfile(file):
            raise
        reason = (
            f'it asks for {_todays_name(found[1])}' if found else f'of this: {text.splitlines()[0]}'
        )
        raise UnsafeCheckpoint(getattr(file, 'name', file), reason.rstrip('.')) from None
    return _without_program(_without_stand_ins(content, set()))


def _todays_name(name: str) -> str:
    """Return today's name of a global that is pickled under its name in Python 2."""
    module, dot, attribute = name.rpartition('.')
    return IMPORT_MAPPING.get(module, module) + dot + attribute


def _without_program(content: Any) -> Any:
    """Drop the config of MMDetection 2.x, which ``Runner.resume`` would run to read ``gpu_ids``.

    MMEngine's own checkpoints have their config under another key.
    """
    meta = content.get('meta') if isinstance(content, dict) else None
    if isinstance(meta, dict):
        meta.pop('config', None)
    return content


@contextmanager
def safe_torch_load() -> Iterator[None]:
    """Replace ``torch.load``, for libraries that call it, by :func:`load_safely`."""
    before, torch.load = torch.load, cast(Any, load_safely)
    try:
        yield
    finally:
        torch.load = before


class _Dtype:
    """Stand-in for a NumPy dtype of numbers or text while a file is read."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        if type(name) is not str or not re.fullmatch('b1|[iufc][0-9]{1,2}|[SU][0-9]{1,9}', name):
            raise UnpicklingError(f'GLOBAL numpy.dtype({name!r})')
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        _, order, *rest = state
        if order not in ('<', '>', '=', '|') or any(x is not None for x in rest[:3]):
            raise UnpicklingError('GLOBAL numpy.dtype with fields')
        if order in '<>':
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stand-in for a NumPy array while a file is read."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        if type(dtype) is not _Dtype or type(raw) is not bytes:
            raise UnpicklingError('GLOBAL numpy.ndarray of objects')
        flat = np.frombuffer(raw, dtype.dtype) if raw else np.empty(0, dtype.dtype)
        laid_out = flat.reshape(shape, order='F' if fortran else 'C')
        self.value = laid_out.astype(dtype.dtype.newbyteorder('='), order='K')


def _reconstruct(kind: type, shape: Any, code: Any) -> _Array:
    if kind is not _Array:
        raise UnpicklingError('GLOBAL numpy.core.multiarray._reconstruct of another class')
    return _Array()


def _scalar(dtype: _Dtype, raw: bytes) -> np.generic:
    if type(dtype) is not _Dtype or type(raw) is not bytes:
        raise UnpicklingError('GLOBAL numpy.core.multiarray.scalar of objects')
    return np.frombuffer(raw, dtype.dtype, count=1)[0]


class _ConfigDict(dict):
    """Stand-in for MMEngine's ConfigDict while a file is read: a nested dict of the metainfo."""


def _no_bytes() -> bytes:
    """Return the data of an empty array, as pickle's protocol 2 writes it."""
    return b''


# Stand-in for the class, which MMEngine's OneCycleLR names to save its function.
_ONE_CYCLE: Any = object()
_ATTRIBUTES = {
    (HistoryBuffer, 'min'): HistoryBuffer.min,
    (HistoryBuffer, 'max'): HistoryBuffer.max,
    (HistoryBuffer, 'current'): HistoryBuffer.current,
    (HistoryBuffer, 'mean'): HistoryBuffer.mean,
    (_ONE_CYCLE, '_annealing_cos'): OneCycleParamScheduler._annealing_cos,
    (_ONE_CYCLE, '_annealing_linear'): OneCycleParamScheduler._annealing_linear,
}


def _attribute(*args: Any) -> Callable:
    """Replace ``getattr`` for the statistics of a HistoryBuffer and a scheduler's functions."""
    for key, value in _ATTRIBUTES.items():
        if len(args) == 2 and args[0] is key[0] and args[1] == key[1]:
            return value
    raise UnpicklingError(f'GLOBAL getattr({", ".join(map(repr, args))})')


_GLOBALS: list[tuple[Callable, str]] = [
    (HistoryBuffer, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (_ONE_CYCLE, 'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'),
    (_attribute, 'builtins.getattr'),
    (_no_bytes, 'builtins.bytes'),
    (_ConfigDict, 'mmengine.config.config.ConfigDict'),
    (_Dtype, 'numpy.dtype'),
    (_Array, 'numpy.ndarray'),
    *((_reconstruct, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
    *((_scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
]


@contextmanager
def _own_globals() -> Iterator[None]:
    """Allow the types of ``_GLOBALS``, in place of those that the caller allows by the same names.

    MMEngine's loaders of object stores allow NumPy's own classes, and the builtin ``getattr``.
    """
    names = {name for _, name in _GLOBALS}
    before = torch.serialization.get_safe_globals()
    others = [
        x
        for x in before
        if (x[1] if isinstance(x, tuple) else f'{x.__module__}.{x.__qualname__}') not in names
    ]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*others, *_GLOBALS])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _without_stand_ins(x: Any, seen: set[int]) -> Any:
    """Replace the stand-ins by their arrays, dtypes and dicts."""
    if type(x) is _ConfigDict:
        return ConfigDict({key: _without_stand_ins(value, seen) for key, value in x.items()})
    if type(x) is _Array:
        return x.value
    if type(x) is _Dtype:
        return x.dtype
    if type(x) is tuple:
        return tuple(_without_stand_ins(item, seen) for item in x)
    if id(x) in seen:
        return x
    if type(x) is HistoryBuffer:
        seen.add(id(x))
        _without_stand_ins(vars(x), seen)
    elif type(x) in (dict, OrderedDict, Counter):
        seen.add(id(x))
        for key, value in x.items():
            x[key] = _without_stand_ins(value, seen)
    elif type(x) is list:
        seen.add(id(x))
        x[:] = [_without_stand_ins(item, seen) for item in x]
    return x
