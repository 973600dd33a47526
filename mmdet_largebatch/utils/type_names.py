"""Names of the types that a config builds, whatever form the config gives them in."""

from collections.abc import Mapping
from typing import Any


def type_name(config: Any) -> str:
    """Return the plain name of the type that a config builds.

    A config file holds names (``'SGD'``, ``'mmdet.CocoDataset'``, ``'torch.optim.SGD'``).
    MMEngine's pure-Python configs hold the classes themselves.

    Args:
        config (dict or str or type or None): A config with ``type``, or such a type.

    Returns:
        str: The name without scope or module, such as ``'SGD'``; empty where no type is given.
    """
    kind = config.get('type') if isinstance(config, Mapping) else config
    if kind is None:
        return ''
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    return name.rsplit('.', 1)[-1]
