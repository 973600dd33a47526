"""Read the logs of every start of a training from its work folder."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SettingError
from ..utils.record import read_record
from .text_log import read_text

Record = dict[str, Any]


@dataclass
class Start:
    """The logs of one start of a training, in ``work_dir/<timestamp>``.

    Args:
        folder (Path): That folder.
        records (list[dict]): The lines of ``vis_data/scalars.json``: those with ``iter`` are of
            updates, the others of evaluations, with the epoch as ``step``.
        record (dict): What it recorded, see :mod:`mmdet_largebatch.utils.record`; empty for a start
            of MMDetection's own loops and ``train.py``.
        broken (int): Lines that do not read as JSON.
    """

    folder: Path
    records: list[Record] = field(default_factory=list)
    record: Record = field(default_factory=dict)
    broken: int = 0

    @property
    def config(self) -> Path:
        """Path: The config that it was started with."""
        return self.folder / 'vis_data' / 'config.py'

    @property
    def trained(self) -> bool:
        """bool: Whether it did something, which a test in the same folder did not."""
        return bool(self.records or self.record)

    @property
    def ended(self) -> Record:
        """dict: How it ended; empty where that is not recorded."""
        return self.record.get('ended') or {}

    def text(self) -> str:
        """Return the text log of rank 0; empty if there is none.

        Returns:
            str: The text.
        """
        path = self.folder / f'{self.folder.name}.log'
        return path.read_text(errors='replace') if path.is_file() else ''


def read_starts(work_dir: Path) -> list[Start]:
    """Return the starts of a training, oldest first.

    Args:
        work_dir (Path): The work folder.

    Returns:
        list[Start]: Those that trained, or the newest alone if none came so far.

    Raises:
        SettingError: If there is none.
    """
    folders = work_dir.iterdir() if work_dir.is_dir() else ()
    named = sorted(path for path in folders if re.fullmatch(r'\d{8}_\d{6}', path.name))
    starts = [_read_start(folder) for folder in named]
    starts = [start for start in starts if start.trained or start.config.is_file()]
    if not starts:
        raise SettingError(
            f'work_dir={work_dir}: no logs of a training there. Must be a work folder of train.py, '
            'which has a <timestamp>/vis_data/scalars.json or a <timestamp>/<timestamp>.log.'
        )
    return [start for start in starts if start.trained] or starts[-1:]


def _read_start(folder: Path) -> Start:
    start = Start(folder)
    scalars = folder / 'vis_data' / 'scalars.json'
    # A process that is killed while it writes leaves half a line.
    for line in scalars.read_text(errors='replace').splitlines() if scalars.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            start.broken += 1
            continue
        # An evaluation without a training is logged as one of epoch 0.
        if isinstance(record, dict) and record.get('step', 0) > 0:
            start.records.append(_plain(record))
    if not scalars.is_file():
        # TensorBoard alone, or another backend: the text log has the same, to 4 decimals.
        start.records = read_text(start.text())
    try:
        start.record = read_record(folder) or {}
    except ValueError:
        start.broken += 1
    return start


def _plain(record: Record) -> Record:
    """Strip the prefixes of ``log_processor.log_with_hierarchy`` from a record."""
    mode = 'train/' if 'iter' in record else 'val/'
    return {key.removeprefix(mode): value for key, value in record.items()}


def join(starts: list[Start]) -> tuple[list[Record], list[Record]]:
    """Merge the logs of all restarts, dropping updates that a later restart recomputed.

    Where a start goes back to an earlier update, as a resumed run and a rollback do, what came
    after that update is not part of the way any more.

    Args:
        starts (list[Start]): The starts, oldest first.

    Returns:
        tuple[list[dict], list[dict]]: The records of updates and those of evaluations, in order.
    """
    updates: list[Record] = []
    evaluations: list[Record] = []
    for record in (record for start in starts for record in start.records):
        step = record['step']
        if 'iter' in record:
            # An epoch that is being trained has not been evaluated yet.
            _drop_from(updates, 'step', step)
            _drop_from(evaluations, 'step', record['epoch'])
            updates.append(record)
        else:
            _drop_from(updates, 'epoch', step + 1)
            _drop_from(evaluations, 'step', step)
            evaluations.append(record)
    return updates, evaluations


def _drop_from(records: list[Record], key: str, value: int) -> None:
    while records and records[-1][key] >= value:
        records.pop()
