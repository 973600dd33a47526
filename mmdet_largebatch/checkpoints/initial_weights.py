"""Check the files of initial weights, before a model is built."""

import os

from mmengine.config import Config

from ..checks import check
from ..utils.config_parts import config_parts
from ..utils.type_names import type_name


def check_initial_weights(cfg: Config) -> None:
    """Refuse an ``init_cfg`` of pretrained weights whose file is missing.

    Addresses (``scheme://...``) are left to MMEngine.

    Args:
        cfg (Config): The config.

    Raises:
        SettingError: If there is no such file.
    """
    for name, part in config_parts(cfg.get('model'), 'model'):
        path = part.get('checkpoint')
        if type_name(part) not in ('Pretrained', 'PretrainedInit') or not isinstance(path, str):
            continue
        exists = '://' in path or os.path.isfile(os.path.expanduser(path))
        wanted = 'a file that exists, or an address such as torchvision://resnet50'
        check(exists, f'{name}.checkpoint', path, wanted)
