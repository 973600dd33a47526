"""Check the files of initial weights, before a model is built."""

import os
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from ..checks import check
from ..utils.type_names import type_name


def check_initial_weights(cfg: Config) -> None:
    """Refuse an ``init_cfg`` of pretrained weights whose file is missing.

    Addresses (``scheme://...``) are left to MMEngine.

    Args:
        cfg (Config): The config.

    Raises:
        SettingError: If there is no such file.
    """
    for name, path in _pretrained(cfg.get('model'), 'model'):
        exists = '://' in path or os.path.isfile(os.path.expanduser(path))
        wanted = 'a file that exists, or an address such as torchvision://resnet50'
        check(exists, f'{name}.checkpoint', path, wanted)


def _pretrained(node: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield each ``init_cfg`` of pretrained weights inside a config, and its checkpoint."""
    if isinstance(node, dict):
        path = node.get('checkpoint')
        if type_name(node) in ('Pretrained', 'PretrainedInit') and isinstance(path, str):
            yield name, path
        for key, value in node.items():
            yield from _pretrained(value, f'{name}.{key}')
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _pretrained(value, f'{name}.{index}')
