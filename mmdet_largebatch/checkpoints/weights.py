"""Compare the weights of a checkpoint with a model's."""

import re
from typing import Any

from mmengine.runner import Runner
from torch import nn

from ..compat import load_from
from ..utils.runner import plain_model


def compare_weights(model: nn.Module, state_dict: dict[str, Any]) -> dict[str, list[str]]:
    """Compare names and shapes of a model's weights with a checkpoint's.

    Args:
        model (nn.Module): The model.
        state_dict (dict[str, Any]): The checkpoint's weights, with or without DDP's prefix.

    Returns:
        dict[str, list[str]]: Names under ``'shape'`` (of another shape), ``'missing'`` (only in the
        model) and ``'unexpected'`` (only in the checkpoint). As in MMEngine, batch norm's
        ``num_batches_tracked`` may be missing.
    """
    own, saved = plain_model(model).state_dict(), without_prefix(state_dict)
    return dict(
        shape=[n for n in own if n in saved and shape_of(own[n]) != shape_of(saved[n])],
        missing=[n for n in own if n not in saved and 'num_batches_tracked' not in n],
        unexpected=[n for n in saved if n not in own],
    )


def without_prefix(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return weights by name, without the prefix that DDP adds.

    Args:
        state_dict (dict[str, Any]): Weights by name.

    Returns:
        dict[str, Any]: The same weights.
    """
    return {re.sub(r'^module\.', '', name): value for name, value in state_dict.items()}


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor.

    Args:
        value (Any): A value of a state dict.

    Returns:
        tuple[int, ...], optional: The shape; None if it has none.
    """
    return tuple(value.shape) if hasattr(value, 'shape') else None


def weights_taken(runner: Runner, checkpoint: dict[str, Any]) -> str:
    """Sum up the weights that a training takes from ``load_from`` without a resume.

    Args:
        runner (Runner): The runner.
        checkpoint (dict[str, Any]): The checkpoint.

    Returns:
        str: A log line.
    """
    state_dict = checkpoint.get('state_dict', checkpoint)
    differ = compare_weights(runner.model, state_dict)
    taken = len(state_dict) - len(differ['shape']) - len(differ['unexpected'])
    parts = [f'{taken} of {len(state_dict)} tensors are loaded']
    words = dict(
        shape='of another shape',
        missing='of the model not in the file',
        unexpected='not in the model',
    )
    for kind, names in differ.items():
        if names:
            parts.append(f'{len(names)} {words[kind]} (such as {names[0]})')
    return f'load_from={load_from(runner)}: {", ".join(parts)}.'
