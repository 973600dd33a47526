"""Check the data before a tool builds anything."""

import sys
from collections.abc import Iterable

from mmengine.config import Config

from ..preflight import check_data
from ..utils.local_rank import is_first_of_machine


def look_at_data(
    cfg: Config, splits: Iterable[str], metrics: bool = True, pictures: bool = True
) -> None:
    """Check annotation files, pictures and classes, and print the warnings.

    Of the processes that dist_train.sh starts on a machine, the first one checks. The others wait
    for it in the first collective call, and torchrun ends them if it refuses. Other launchers may
    not end them, so all ranks check, and the first one of each machine prints.

    Args:
        cfg (Config): The config.
        splits (Iterable[str]): Of ``'train'``, ``'val'``, ``'test'``.
        metrics (bool): True if the predictions will be evaluated. Defaults to True.
        pictures (bool): True if pictures will be read. Defaults to True.

    Raises:
        SettingError: If the check finds an error.
    """
    if cfg.get('launcher') == 'pytorch' and not is_first_of_machine():
        return
    lines = check_data(cfg, splits, metrics, pictures)
    for line in lines if is_first_of_machine() else ():
        print(f'warning: {line}', file=sys.stderr, flush=True)
