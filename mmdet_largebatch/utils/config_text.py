"""Write a config as text, a pure-Python config included."""

from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..compat import LazyAttr, LazyObject, lazy_dict


def config_text(cfg: Config) -> str:
    """Return the Python text of a config.

    MMEngine writes the classes of a pure-Python config as strings, which MMDetection does not
    accept everywhere (``roi_layer``). Here they stay imports.
    """
    text, imports = cfg.pretty_text, []
    names = {f'{kind.module}.{kind}': kind for kind in _imported(lazy_dict(cfg))}
    for index, (written, kind) in enumerate(sorted(names.items())):
        imports.append(f'from {kind.module} import {kind} as type_{index}\n')
        text = text.replace(repr(written), f'type_{index}')
    return ''.join(imports) + text


def _imported(value: Any) -> Iterator[LazyObject | LazyAttr]:
    if isinstance(value, (LazyObject, LazyAttr)):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _imported(item)
