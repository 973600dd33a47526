"""Search a dataset for the configs and objects of its pipeline."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from torch import nn

# Longer lists and dicts are data, not parts of a pipeline.
LONGEST = 100


def pipeline_parts(dataset: Any, closed: Callable[[Any], bool]) -> Iterator[Any]:
    """Yield the parts of a dataset, each once, in the order of the pipeline.

    Datasets within datasets and transforms within transforms are parts too.

    Args:
        dataset (Dataset or dict): The dataset or its config.
        closed (Callable): Returns True for a part whose own parts are not searched.

    Yields:
        Any: A dict of a config, or an object with attributes.
    """
    seen: set[int] = set()
    pending = [dataset]
    while pending:
        value = pending.pop()
        inner: Any = value
        if isinstance(value, dict) or not isinstance(value, (list, tuple)):
            passive = isinstance(value, (type, ModuleType, nn.Module))
            plain = isinstance(value, dict) or hasattr(value, '__dict__')
            if passive or not plain or id(value) in seen:
                continue
            seen.add(id(value))
            yield value
            if closed(value):
                continue
            inner = list((value if isinstance(value, dict) else vars(value)).values())
        if len(inner) < LONGEST:
            pending += reversed(inner)
