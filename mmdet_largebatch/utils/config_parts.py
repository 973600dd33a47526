"""Find the parts of a config, with their names as on a command line."""

from collections.abc import Iterator, Mapping
from typing import Any


def config_parts(node: Any, name: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each dict inside a config with its name.

    Args:
        node (Any): A dict, list or value of a config.
        name (str): Its own name; empty for a whole config, which is not yielded itself.

    Yields:
        tuple[str, Mapping]: A name such as ``'custom_hooks.0'``, and the dict.
    """
    items: Any = ()
    if isinstance(node, Mapping):
        if name:
            yield name, node
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    for key, value in items:
        yield from config_parts(value, f'{name}.{key}' if name else str(key))


def named_hooks(cfg: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the configs of all hooks with their names.

    Args:
        cfg (Config or dict): The config.

    Returns:
        list[tuple[str, dict]]: A name such as ``'default_hooks.lr'``, and the hook's config.
    """
    hooks = [(f'default_hooks.{key}', x) for key, x in (cfg.get('default_hooks') or {}).items()]
    hooks += [(f'custom_hooks.{i}', x) for i, x in enumerate(cfg.get('custom_hooks') or [])]
    return [(name, hook) for name, hook in hooks if isinstance(hook, dict)]
