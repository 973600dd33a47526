"""Save and restore what a forward pass changes in a model."""

from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .collectives import parts


class ModelState:
    """The buffers of a model, and the attributes of its modules and of the objects they hold.

    Parameters are left out: a forward pass does not change them.

    Args:
        model (nn.Module): The model.
    """

    def __init__(self, model: nn.Module) -> None:
        objects = {id(part): part for module in model.modules() for _, part in parts(module)}
        self._attributes = [vars(part) for part in objects.values()]

    def save(self) -> None:
        """Take a copy."""
        self._saved = [
            {name: (value, _contents(value)) for name, value in attributes.items()}
            for attributes in self._attributes
        ]

    def restore(self) -> None:
        """Put everything back to the copy, in the same objects."""
        for attributes, saved in zip(self._attributes, self._saved, strict=True):
            for name in attributes.keys() - saved.keys():
                del attributes[name]
            for name, (value, contents) in saved.items():
                attributes[name] = value
                _refill(value, contents)
        del self._saved


def _contents(value: Any) -> Any:
    """Copy what can be changed in place; None for the rest."""
    if isinstance(value, nn.Parameter):
        return None
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: (item, _contents(item)) for key, item in value.items()}
    if isinstance(value, (list, deque)):
        return [(item, _contents(item)) for item in value]
    return value.copy() if isinstance(value, set) else None


def _refill(value: Any, contents: Any) -> None:
    if contents is None:
        return
    if isinstance(value, Tensor):
        with torch.no_grad():
            value.copy_(contents)
    elif isinstance(value, np.ndarray):
        value[...] = contents
    elif isinstance(value, dict):
        value.clear()
        value.update({key: item for key, (item, _) in contents.items()})
        for item, inner in contents.values():
            _refill(item, inner)
    elif isinstance(value, set):
        value.clear()
        value.update(contents)
    else:
        value.clear()
        value.extend(item for item, _ in contents)
        for item, inner in contents:
            _refill(item, inner)
