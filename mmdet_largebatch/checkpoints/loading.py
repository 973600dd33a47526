"""Checkpoints of a training read with MMEngine 0.10.7 on torch 2.6 and newer."""

import os
from pickle import UnpicklingError
from typing import Any, Callable, Dict, Union

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_from_local as mmengines_load_from_local


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(
    filename: str, map_location: Union[str, Callable, None] = None
) -> Dict[str, Any]:
    """Load a local checkpoint, one that holds more than weights too.

    What a training saves holds objects, such as the history of its losses. MMEngine 0.10.7 leaves
    the choice to ``torch.load``, which refuses them since torch 2.6. They are loaded here as
    before, which runs what code a file may hold: as always with MMEngine, it must come from a
    trusted source. Weights alone, and all that MMEngine itself can load, it loads.

    MMEngine calls this for every path without a scheme, once this package is imported.

    Args:
        filename (str): Path on a local file system.
        map_location (str or Callable, optional): As for :func:`torch.load`.

    Returns:
        Dict[str, Any]: The checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    try:
        return mmengines_load_from_local(filename, map_location)
    except UnpicklingError:
        path = os.path.expanduser(filename)
        return torch.load(path, map_location=map_location, weights_only=False)
