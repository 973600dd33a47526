"""Write a config to a file that reads back as the same config, whatever form it came in."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..compat import LazyAttr, LazyObject, lazy_dict


def config_text(cfg: Config) -> str:
    """Return the Python text of a config.

    MMEngine writes the classes of a pure-Python config as strings, which MMDetection does not take
    everywhere (``roi_layer``). Here they stay imports.

    Args:
        cfg (Config): The config.

    Returns:
        str: The text; a pure-Python config if the given one is.
    """
    text, imports = cfg.pretty_text, []
    names = {f'{one.module}.{one}': one for one in _imported(lazy_dict(cfg))}
    for number, (written, one) in enumerate(sorted(names.items())):
        alias = f'type_{number}'
        imports.append(f'from {one.module} import {one} as {alias}\n')
        text = text.replace(repr(written), alias)
    return ''.join(imports) + text


def _imported(value: Any) -> Iterator[LazyObject | LazyAttr]:
    if isinstance(value, (LazyObject, LazyAttr)):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _imported(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _imported(one)
