"""Name what remembers earlier pictures: transforms, and modules with state of their own."""

from types import ModuleType
from typing import Any

from torch import nn

from ..checks import listed
from ..utils.type_names import type_name

INSTEAD = {'CachedMosaic': 'Mosaic', 'CachedMixUp': 'MixUp'}
# Longer lists and dicts are data, not parts of a pipeline.
LONGEST = 100


def remembering_transforms(dataset: Any) -> list[str]:
    """Find transforms whose pictures depend on what a data worker has loaded before.

    Datasets within datasets and transforms within transforms are searched too. A transform counts
    if its class is named ``Cached...`` or it has a ``results_cache``.

    Args:
        dataset (Dataset or dict): The dataset or its config.

    Returns:
        list[str]: Class names of the transforms, each once, in the order of the pipeline.
    """
    found: dict[str, None] = {}
    seen: set[int] = set()
    pending = [dataset]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if type_name(value).startswith('Cached'):
                found[type_name(value)] = None
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            if len(value) < LONGEST:
                pending += reversed(value)
            continue
        passive = isinstance(value, (type, ModuleType, nn.Module))
        if passive or not hasattr(value, '__dict__') or id(value) in seen:
            continue
        seen.add(id(value))
        name = type(value).__name__
        if name.startswith('Cached') or hasattr(value, 'results_cache'):
            found[name] = None
        else:
            pending += reversed(list(vars(value).values()))
    return list(found)


def remembering_message(dataset: Any) -> str | None:
    """Say which transforms remember earlier pictures, and what to take instead.

    Args:
        dataset (Dataset or dict): The dataset or its config.

    Returns:
        str, optional: One line for the user, None if there are none.
    """
    names = remembering_transforms(dataset)
    if not names:
        return None
    instead = [INSTEAD[name] for name in names if name in INSTEAD]
    advice = f': take {" and ".join(instead)} in a MultiImageMixDataset instead' if instead else ''
    return (
        'This training depends on the numbers of ranks and data workers and on restarts: '
        f'{", ".join(names)} in train_dataloader.dataset remembers earlier pictures{advice}.'
    )


def changing_state_message(names: list[str]) -> str | None:
    """Say which state of the model each micro-batch changes.

    Args:
        names (list[str]): What a forward pass changed, such as ``roi_head.iou_history``.

    Returns:
        str, optional: One line for the user, None if there are no names.
    """
    if not names:
        return None
    return (
        f'Each micro-batch changes {listed(names)}, on its own rank alone. If a loss '
        'depends on it, this training depends on the number of ranks.'
    )
