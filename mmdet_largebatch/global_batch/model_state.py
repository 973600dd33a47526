"""Save and restore what a forward pass changes in a model."""

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..utils.runner import plain_model
from .collectives import parts

DICTS = (dict, OrderedDict, defaultdict, Counter)
# Lists within lists are saved to this depth.
DEPTH = 4


class ModelState:
    """The buffers of a model, and the attributes of its modules and of the objects they hold.

    Parameters and configs are left out: a forward pass does not change them.

    Args:
        model (nn.Module): The model, wrapped by DDP or not.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = plain_model(model).modules()
        objects = {id(part): part for module in modules for _, part in parts(module)}
        self._attributes = [vars(part) for part in objects.values()]

    def save(self) -> None:
        """Take a copy."""
        self._saved = [_contents(attributes, DEPTH) for attributes in self._attributes]

    def restore(self) -> None:
        """Put everything back to the copy, in the same objects."""
        for attributes, contents in zip(self._attributes, self._saved, strict=True):
            _refill(attributes, contents)
        self._saved = []


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
