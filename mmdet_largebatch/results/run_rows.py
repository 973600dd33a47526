"""Keep finished runs as rows of a small CSV file, from which a sweep continues."""

import csv
import fcntl
import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ..checkpoints.atomic_file import AtomicFileBackend
from ..checks import check
from ..errors import SettingError
from ..utils.type_names import type_name
from .run import Run
from .settings import base_lr, global_batch, optimizer_config, warmup_updates

PACKAGE = Path(__file__).resolve().parents[1]


class RowKey(NamedTuple):
    """The settings that identify a row. A run whose key has a row is not trained again.

    Args:
        optimizer (str): Type of the optimizer.
        batch (int): Images per update.
        lr (float): LR after the warmup.
        warmup (int): Length of the warmup in updates.
        seed (int): Seed.
        epochs (int): Epochs of the LR schedule.
    """

    optimizer: str
    batch: int
    lr: float
    warmup: int
    seed: int
    epochs: int


@dataclass(frozen=True)
class Row:
    """A finished run.

    Args:
        key (RowKey): Settings.
        box_ap (float, optional): Box AP of the last epoch, 0 if nothing was detected; None if the
            run diverged or box AP was not measured.
        mask_ap (float, optional): Mask AP of the last epoch.
        updates (int): Updates trained.
        minutes (float, optional): Sum of the iteration times.
        commit (str): Commit of the code; ``-dirty`` if the package or the recipes were changed.
        status (str): ``'done'``, ``'diverged'`` or ``'nan'``.
        ap_by_epoch (tuple): Epoch, box AP and mask AP of each evaluation.
    """

    key: RowKey
    box_ap: float | None
    mask_ap: float | None
    updates: int
    minutes: float | None
    commit: str
    status: str
    ap_by_epoch: tuple[tuple[int, float | None, float | None], ...]


# Order of the columns in the file.
COLUMNS = (
    *('optimizer', 'batch', 'lr', 'warmup', 'seed', 'box_ap', 'mask_ap'),
    *('updates', 'minutes', 'commit', 'epochs', 'status', 'ap_by_epoch'),
)


def row_key(cfg: Config) -> RowKey:
    """Return the key of a run from its config.

    Args:
        cfg (Config): Config of the run.

    Returns:
        RowKey: Key.

    Raises:
        SettingError: If a part of the key is not set, or the run is cut short.
    """
    values: dict[str, Any] = dict(
        optimizer=type_name(optimizer_config(cfg)) or None,
        batch=global_batch(cfg, None),
        lr=base_lr(cfg, None),
        warmup=warmup_updates(cfg, None),
        seed=(cfg.get('randomness') or {}).get('seed'),
        epochs=cfg.train_cfg.max_epochs,
    )
    for name, value in values.items():
        wanted = 'set in updates' if name == 'warmup' else 'set in the config'
        check(value is not None, name, value, f'{wanted}: it identifies a row of --table')
    cut = cfg.train_cfg.get('max_updates')
    check(cut is None, 'train_cfg.max_updates', cut, 'None: a row of --table is a whole run')
    return RowKey(**values)


def row_of(run: Run, key: RowKey, commit: str) -> Row:
    """Return the row of a finished run.

    Args:
        run (Run): Run.
        key (RowKey): Its key.
        commit (str): Commit of the code.

    Returns:
        Row: Row.
    """
    done = run.status == 'done'
    nothing = bool(run.evaluations) and run.evaluations[-1].found_nothing
    last = run.updates[-1].update if run.updates else 0
    seconds = run.training_seconds
    return Row(
        key=key,
        box_ap=None if not done else 0.0 if nothing else run.box_ap,
        mask_ap=run.mask_ap if done else None,
        updates=run.ended.get('update', last),
        minutes=None if seconds is None else round(seconds / 60, 2),
        commit=commit,
        status=run.status,
        ap_by_epoch=tuple((one.epoch, one.box_ap, one.mask_ap) for one in run.evaluations),
    )


def code_commit() -> str:
    """Return the commit of the code, with ``-dirty`` after it if the code was changed."""
    commit = _git('rev-parse', '--short', 'HEAD')
    if not commit:
        return 'unknown'
    folders = [path for path in ('mmdet_largebatch', 'configs') if (PACKAGE.parent / path).is_dir()]
    changed = _git('status', '--porcelain', '--untracked-files=no', '--', *folders)
    return f'{commit}-dirty' if changed else commit


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ['git', *words], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ''
    return done.stdout.strip()


def read_rows(path: str | Path) -> dict[RowKey, Row]:
    """Read the rows of a file; none if there is no file.

    Args:
        path (str or Path): CSV file.

    Returns:
        dict[RowKey, Row]: Rows in the order of the file.

    Raises:
        SettingError: If the file has other columns or a row that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        return {}
    with open(path, newline='') as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise SettingError(
                f'table={path}: its columns are {reader.fieldnames}. Must be {list(COLUMNS)}.'
            )
        rows = {}
        for number, record in enumerate(reader, 2):
            try:
                row = _from_text(record)
            except (ValueError, TypeError, AttributeError) as error:
                raise SettingError(
                    f'table={path}: line {number} is not valid ({error}).'
                ) from error
            rows[row.key] = row
    return rows


def add_row(path: str | Path, row: Row) -> None:
    """Append a row atomically. Several processes may append to the same file.

    Args:
        path (str or Path): CSV file, created with its folder if missing.
        row (Row): Row; replaces one with the same key.

    Raises:
        SettingError: If the file is not such a table.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.parent):
        rows = read_rows(path) | {row.key: row}
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
        writer.writeheader()
        writer.writerows(_as_text(one) for one in rows.values())
        AtomicFileBackend().put_text(text.getvalue(), path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which leaves no lock file behind."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _as_text(row: Row) -> dict[str, Any]:
    aps = [f'{epoch}:{_number(box)}/{_number(mask)}' for epoch, box, mask in row.ap_by_epoch]
    values = {name: getattr(row, name) for name in COLUMNS if hasattr(row, name)}
    return row.key._asdict() | values | dict(ap_by_epoch=' '.join(aps))


def _from_text(record: dict[str, str]) -> Row:
    aps = []
    for entry in record['ap_by_epoch'].split():
        epoch, _, pair = entry.partition(':')
        box, _, mask = pair.partition('/')
        aps.append((int(epoch), _value(box), _value(mask)))
    kinds = dict(optimizer=str, batch=int, lr=float, warmup=int, seed=int, epochs=int)
    return Row(
        key=RowKey(**{name: kind(record[name]) for name, kind in kinds.items()}),
        box_ap=_value(record['box_ap']),
        mask_ap=_value(record['mask_ap']),
        updates=int(record['updates']),
        minutes=_value(record['minutes']),
        commit=record['commit'],
        status=record['status'],
        ap_by_epoch=tuple(aps),
    )


def _number(value: float | None) -> str:
    return '' if value is None else repr(value)


def _value(text: str) -> float | None:
    return float(text) if text else None
