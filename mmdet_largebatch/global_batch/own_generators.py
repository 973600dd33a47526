"""Find transforms that draw from a random generator of their own.

The seed of a micro-batch reaches the global generators alone: of ``random``, ``numpy.random`` and
``torch``.
"""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..checks import listed
from .pipeline_parts import pipeline_parts

KINDS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
# An attribute may be one of these: their methods are the functions of the modules.
GLOBAL = (
    getattr(random.random, '__self__', None),
    getattr(np.random.random, '__self__', None),
    torch.default_generator,
)


def seedable_parts(dataset: Any) -> list[Any]:
    """Find parts of a pipeline with a method to seed them, such as ``Compose`` of Albumentations.

    Args:
        dataset (Dataset): The dataset.

    Returns:
        list[Any]: The outermost objects that have ``set_random_seed``, in the order of the
        pipeline.
    """
    return [part for part in pipeline_parts(dataset, _is_seedable) if _is_seedable(part)]


def own_generator_message(dataset: Any) -> str | None:
    """Name transforms whose own generator nothing seeds.

    Args:
        dataset (Dataset or dict): The dataset, or its config, which shows no generator.

    Returns:
        str, optional: One line for the user, None if there are none.
    """
    found: dict[str, None] = {}
    for part in pipeline_parts(dataset, _is_seedable):
        if not _is_seedable(part) and any(isinstance(x, KINDS) for x in _held(part)):
            found[type(part).__name__] = None
    if not found:
        return None
    return (
        'This training depends on the numbers of ranks and data workers and on restarts: '
        f'{listed(list(found))} in train_dataloader.dataset draws from a generator of its own. '
        'Must draw from random, numpy.random or torch, or have a method set_random_seed(seed).'
    )


def _is_seedable(part: Any) -> bool:
    return callable(getattr(part, 'set_random_seed', None))


def _held(part: Any) -> Iterator[Any]:
    """Yield the attributes of an object, and what is in their lists and dicts."""
    if isinstance(part, dict):
        return
    for value in vars(part).values():
        inner = list(value.values()) if isinstance(value, dict) else value
        for item in inner if isinstance(inner, (list, tuple)) else (inner,):
            if not any(item is generator for generator in GLOBAL):
                yield item
