"""Name what remembers earlier pictures: transforms, and modules with state of their own."""

from typing import Any

from ..checks import listed
from ..utils.type_names import type_name
from .pipeline_parts import pipeline_parts

INSTEAD = {'CachedMosaic': 'Mosaic', 'CachedMixUp': 'MixUp'}


def remembering_transforms(dataset: Any) -> list[str]:
    """Find transforms whose pictures depend on what a data worker has loaded before.

    A transform counts if its class is named ``Cached...`` or it has a ``results_cache``.

    Args:
        dataset (Dataset or dict): The dataset or its config.

    Returns:
        list[str]: Class names of the transforms, each once, in the order of the pipeline.
    """
    found = [_name(part) for part in pipeline_parts(dataset, _remembers) if _remembers(part)]
    return list(dict.fromkeys(found))


def _name(part: Any) -> str:
    return type_name(part if isinstance(part, dict) else type(part))


def _remembers(part: Any) -> bool:
    cache = not isinstance(part, dict) and hasattr(part, 'results_cache')
    return _name(part).startswith('Cached') or cache


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
