"""Return the name of the type that a config builds, and whether a class is a user's own."""

from collections.abc import Mapping
from typing import Any

# Packages whose classes do with their settings what the checks assume.
STOCK = ('mmdet', 'mmengine', 'mmcv', 'mmdet_largebatch')


def type_name(config: Any) -> str:
    """Return the plain name of the type that a config builds.

    A text config holds names (``'SGD'``, ``'mmdet.CocoDataset'``, ``'torch.optim.SGD'``). A
    pure-Python config holds the classes.

    Args:
        config (dict or str or type or None): A config with ``type``, or such a type.

    Returns:
        str: The name without scope or module, such as ``'SGD'``; empty if no type is given.
    """
    kind = config.get('type') if isinstance(config, Mapping) else config
    if kind is None:
        return ''
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))
    return name.rsplit('.', 1)[-1]


def is_stock(kind: type | None, *methods: str) -> bool:
    """Return True if a class, or each of these `methods`, is no user's own."""
    parts = [getattr(kind, name, None) for name in methods] if methods else [kind]
    return all(str(getattr(x, '__module__', '')).split('.')[0] in STOCK for x in parts)
