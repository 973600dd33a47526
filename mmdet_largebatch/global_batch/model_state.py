"""Save and restore what a forward pass changes in a model."""

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..utils.runner import plain_model
from .collectives import parts, plain_parts

DICTS = (dict, OrderedDict, defaultdict, Counter)
# Lists within lists are saved to this depth.
DEPTH = 4


class ModelState:
    """The buffers of a model, and the attributes of its modules and of the objects they hold.

    Configs are left out: a forward pass does not change them. :class:`ChangedParameters` takes care
    of parameters.

    Args:
        model (nn.Module): The model, wrapped by DDP or not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._holders: dict[int, _Holder] = {}
        for name, module in all_modules(model):
            for path, part in plain_parts(module):
                where = '.'.join(filter(None, (name, path))) or type(part).__name__
                self._holders.setdefault(
                    id(part), _Holder(where, vars(part), isinstance(part, _NormBase))
                )

    def contents(self) -> list[Any]:
        """Return a copy of everything that can be changed in place."""
        return [_contents(holder.attributes, DEPTH) for holder in self._holders.values()]

    def save(self) -> None:
        """Take a copy."""
        self._saved = self.contents()

    def restore(self) -> None:
        """Put everything back to the copy, in the same objects."""
        for holder, contents in zip(self._holders.values(), self._saved, strict=True):
            _refill(holder.attributes, contents)
        self._saved = []

    def changed(self, earlier: list[Any]) -> list[str]:
        """Name what has changed, without the running statistics of batch norm.

        Args:
            earlier (list): An earlier return value of :meth:`contents`.

        Returns:
            list[str]: Paths in the model, such as ``roi_head.iou_history``.
        """
        return [
            f'{holder.where}.{name}'
            for holder, contents in zip(self._holders.values(), earlier, strict=True)
            if not holder.is_norm
            for name in _changed_names(holder.attributes, contents)
        ]


def all_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a model by name, and those hidden in it, such as a teacher in a list.

    Args:
        model (nn.Module): The model, wrapped by DDP or not.

    Yields:
        tuple[str, nn.Module]: A name, such as ``neck``, and the module.
    """
    seen: set[nn.Module] = set()
    pending = [('', plain_model(model))]
    for prefix, root in pending:
        for name, module in root.named_modules(seen, prefix):
            yield name, module
            pending += [
                ('.'.join(filter(None, (name, path))), part)
                for path, part in parts(module)
                if isinstance(part, nn.Module)
            ]


class _Holder(NamedTuple):
    """A module, or an object that a module holds: its place in the model and its attributes."""

    where: str
    attributes: dict[str, Any]
    is_norm: bool


def _contents(value: Any, depth: int) -> Any:
    """Copy what can be changed in place; None for the rest."""
    if isinstance(value, Tensor):
        return (
            None if isinstance(value, nn.Parameter) or _expanded(value) else value.detach().clone()
        )
    if isinstance(value, np.ndarray):
        return value.copy()
    if depth == 0:
        return None
    if type(value) in DICTS:
        return {key: (item, _contents(item, depth - 1)) for key, item in value.items()}
    if type(value) in (list, deque):
        return [(item, _contents(item, depth - 1)) for item in value]
    return value.copy() if type(value) is set else None


def _refill(value: Any, contents: Any) -> None:
    if contents is None:
        return
    if isinstance(value, Tensor):
        value.data.copy_(contents)
    elif isinstance(value, np.ndarray):
        value[...] = contents
    elif isinstance(value, set):
        value.clear()
        value.update(contents)
    elif isinstance(value, dict):
        value.clear()
        # A Counter's own update would count.
        dict.update(value, {key: item for key, (item, _) in contents.items()})
        for item, inner in contents.values():
            _refill(item, inner)
    else:
        value.clear()
        value.extend(item for item, _ in contents)
        for item, inner in contents:
            _refill(item, inner)


def _expanded(value: Tensor) -> bool:
    """Return True for a view that shows one number in several places."""
    strided = value.layout is torch.strided
    return strided and 0 in (s for s, n in zip(value.stride(), value.shape, strict=True) if n > 1)


def _changed_names(attributes: dict[str, Any], contents: dict[str, Any]) -> list[str]:
    names = []
    for name, value in attributes.items():
        if name not in contents:
            names.append(name)
        elif _differs(value, *contents[name]):
            inner = contents[name][1]
            names += _changed_names(value, inner) if name == '_buffers' else [name]
    return names


def _differs(value: Any, before: Any, contents: Any) -> bool:
    """Compare a value with an object and the copy of what it held; unknown objects are equal."""
    if isinstance(value, (bool, int, float, str)) or isinstance(before, (bool, int, float, str)):
        return type(value) is not type(before) or value != before
    if type(value) is not type(before):
        return True
    if contents is None:
        return False
    if isinstance(value, Tensor):
        return not torch.equal(value, contents)
    if isinstance(value, np.ndarray):
        return not np.array_equal(value, contents)
    if isinstance(value, set):
        return value != contents
    if len(value) != len(contents):
        return True
    if isinstance(value, dict):
        return any(key not in contents or _differs(value[key], *contents[key]) for key in value)
    return any(_differs(item, *saved) for item, saved in zip(value, contents, strict=True))
