"""Find modules that communicate with other ranks in a training step."""

import dis
import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import torch
from mmdet.utils import reduce_mean
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..utils.runner import plain_model

COLLECTIVES = frozenset(
    {
        *('all_gather', 'all_gather_into_tensor', 'all_gather_object', 'all_reduce'),
        *('all_gather_coalesced', 'all_gather_tensor', 'all_gather_tensor_autograd'),
        *('all_reduce_coalesced', 'all_reduce_dict', 'all_reduce_params', 'all_to_all'),
        *('all_to_all_single', 'barrier', 'broadcast', 'broadcast_object_list'),
        *('collect_results', 'collect_results_cpu', 'collect_results_gpu', 'gather'),
        *('gather_object', 'irecv', 'isend', 'monitored_barrier', 'recv', 'reduce'),
        *('reduce_scatter', 'reduce_scatter_tensor', 'scatter', 'scatter_object_list', 'send'),
        'sync_random_seed',
    }
)
TENSOR_METHODS = frozenset({'gather', 'scatter'})
# The one that has a stand-in; see rank_means.py.
MEAN = 'mmdet.utils.reduce_mean'
LIBRARIES = ('torch.distributed', 'mmengine.dist')
# Methods that no training step calls.
NOT_IN_A_STEP = frozenset(
    {
        *('__init__', '_load_from_state_dict', 'aug_test', 'init_weights', 'load_state_dict'),
        *('predict', 'predict_by_feat', 'show_result', 'simple_test', 'state_dict', 'test_step'),
        *('train', 'val_step'),
    }
)
# Their classes do not communicate, but for SyncBN, which is asked for by its type.
QUIET = frozenset({'abc', 'builtins', 'collections', 'mmengine', 'numpy', 'torch', 'typing'})
DEPTH = 4


def collectives(model: nn.Module) -> dict[str, set[str]]:
    """Find modules whose training step calls a collective operation.

    The code is read, not run: methods of each module and of the plain objects that it holds, the
    functions nested in them, and the functions of other modules that they call by name.

    Args:
        model (nn.Module): The model, in the mode that it trains in, wrapped by DDP or not.

    Returns:
        dict[str, Set[str]]: For each module's name the functions by which it communicates.
    """
    model = plain_model(model)
    found: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        if is_sync_bn(module):
            found[name] = {'SyncBN'}
            continue
        for path, part in plain_parts(module):
            kind: Any = type(part)
            calls = _of_class(kind)
            if calls:
                where = '.'.join(filter(None, (name, path))) or type(model).__name__
                found[where] = calls
    return found


def calls_reduce_mean(model: nn.Module) -> bool:
    """Return True if the code of a module calls mmdet's ``reduce_mean``.

    Args:
        model (nn.Module): The model.
    """
    return any(MEAN in found for found in collectives(model).values())


def is_sync_bn(module: nn.Module) -> bool:
    """Return True for batch norm with statistics over ranks that trains them.

    Args:
        module (nn.Module): The module: PyTorch's, MMCV's or another's of such a name.
    """
    name = type(module).__name__
    batch_norm = isinstance(module, _BatchNorm) or name.endswith(('BatchNorm', 'BN'))
    return batch_norm and 'Sync' in name and module.training


def plain_parts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield a module and the plain objects that it holds, such as assigners and samplers."""
    for path, part in parts(module):
        if part is module or not isinstance(part, nn.Module):
            yield path, part


def parts(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield a module and what it holds apart from its children.

    That are plain objects, such as assigners and samplers, with what they hold, and modules.
    """
    yield '', module
    held = {key: value for key, value in vars(module).items() if key != '_modules'}
    seen, pending = {id(module)}, [(key, value, 0) for key, value in held.items()]
    while pending:
        path, value, depth = pending.pop()
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            if len(value) < 100 and depth < DEPTH:
                pending += [(path, item, depth + 1) for item in value]
            continue
        kind = type(value)
        is_module = isinstance(value, nn.Module)
        plain = not isinstance(value, (type, ModuleType)) and hasattr(value, '__dict__')
        quiet = _library(kind) in QUIET and not is_module
        if not plain or quiet or inspect.isroutine(value) or id(value) in seen:
            continue
        seen.add(id(value))
        yield path, value
        if depth < DEPTH and not is_module:
            pending += [(f'{path}.{key}', item, depth + 1) for key, item in vars(value).items()]


def _library(kind: Any) -> str:
    return (getattr(kind, '__module__', None) or '').split('.')[0]


@functools.cache
def _of_class(kind: type) -> set[str]:
    """Return the collectives in the methods of a class and of its bases."""
    return _of_methods(kind, set())


def _of_methods(kind: type, seen: set[FunctionType]) -> set[str]:
    found: set[str] = set()
    for cls in kind.__mro__:
        if _library(cls) not in QUIET:
            for name, method in vars(cls).items():
                if name not in NOT_IN_A_STEP:
                    for function in _functions(method):
                        found |= _of_function(function, seen)
    return found


def _functions(value: Any) -> Iterator[FunctionType]:
    """Yield the Python functions behind a method, property or decorated function."""
    pending, seen = [value], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, property):
            pending += [value.fget, value.fset]
        elif isinstance(value, (functools.partial, functools.partialmethod)):
            pending.append(value.func)
        elif isinstance(value, functools.cached_property):
            pending.append(value.func)
        elif isinstance(value, (staticmethod, classmethod)) or inspect.ismethod(value):
            pending.append(value.__func__)
        elif isinstance(value, FunctionType):
            yield value
            pending.append(getattr(value, '__wrapped__', None))
            for cell in value.__closure__ or ():
                try:
                    pending.append(cell.cell_contents)
                except ValueError:
                    continue  # not filled yet
        elif hasattr(value, '__wrapped__'):
            pending.append(value.__wrapped__)


def _of_function(function: FunctionType, seen: set[FunctionType]) -> set[str]:
    """Return the collectives that a function calls, itself or by the functions that it names.

    A function that calls one is given by its own name, mmdet's ``reduce_mean`` as ``MEAN``.
    """
    if function is reduce_mean:
        return {MEAN}
    if function in seen:
        return set()
    seen.add(function)
    found: set[str] = set()
    for code in _codes(function.__code__):
        for value in _named(code, function.__globals__):
            if _is_collective(value):
                found.add(value.__name__)
            elif _library(value) in QUIET:
                continue
            elif isinstance(value, type):
                if issubclass(value, torch.autograd.Function):
                    found |= _of_methods(value, seen)
            else:
                for inner in _functions(value):
                    calls = _of_function(inner, seen)
                    found |= calls & {MEAN}
                    if calls - {MEAN}:
                        found.add(inner.__name__)
        found |= _imported(code)
    return found


def _named(code: CodeType, variables: dict[str, Any]) -> Iterator[Any]:
    """Yield the global objects that the code reads: `name`, `module.name` and so on."""
    value = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in ('LOAD_GLOBAL', 'LOAD_NAME'):
            yield value
            value = variables.get(instruction.argval)
        elif instruction.opname in ('LOAD_ATTR', 'LOAD_METHOD') and isinstance(value, ModuleType):
            value = getattr(value, instruction.argval, None)
        elif instruction.opname not in ('PUSH_NULL', 'CACHE', 'EXTENDED_ARG', 'PRECALL'):
            yield value
            value = None
    yield value


def _imported(code: CodeType) -> set[str]:
    """Return the collectives that the code names, if it imports a library of them itself."""
    imports = [i.argval for i in dis.get_instructions(code) if i.opname == 'IMPORT_NAME']
    if any(name.startswith(LIBRARIES) for name in imports):
        return set(code.co_names) & COLLECTIVES - TENSOR_METHODS
    return set()


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and those nested in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _is_collective(value: Any) -> bool:
    module = getattr(value, '__module__', None) or ''
    name = getattr(value, '__name__', None)
    return callable(value) and module.startswith(LIBRARIES) and name in COLLECTIVES
