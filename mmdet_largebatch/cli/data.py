"""Check the data before a tool builds anything."""

import os
import sys
from collections.abc import Iterable

from mmengine.config import Config

from ..preflight import check_data


def look_at_data(
    cfg: Config, splits: Iterable[str], metrics: bool = True, pictures: bool = True
) -> None:
    """Check annotation files, pictures and classes; print what the user should know.

    Of the processes that dist_train.sh starts on a machine the first one checks. The others wait
    for it where all processes meet, and torchrun ends them if it refuses.

    Args:
        cfg (Config): The config.
        splits (Iterable[str]): Of ``'train'``, ``'val'``, ``'test'``.
        metrics (bool): Whether the predictions will be evaluated. Defaults to True.
        pictures (bool): Whether pictures will be read. Defaults to True.

    Raises:
        SettingError: If anything is wrong.
    """
    if cfg.get('launcher') == 'pytorch' and os.environ.get('LOCAL_RANK', '0') != '0':
        return
    for line in check_data(cfg, splits, metrics, pictures):
        print(f'warning: {line}', file=sys.stderr, flush=True)
