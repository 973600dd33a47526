"""Read a run from its work folder."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import SettingError
from ..utils.record import read_record
from ..utils.type_names import type_name
from . import settings
from .ap_names import ap_names, several_aps
from .run import Evaluation, LoggedUpdate, Run
from .stock_log import read_facts, read_scalars

Record = dict[str, Any]
# Keys of an evaluation that are no metrics.
NO_METRICS = {'step', 'time', 'data_time', 'memory', 'nothing'}


@dataclass
class Start:
    """The logs of one start of a run, in ``work_dir/<timestamp>``.

    Args:
        folder (Path): Folder of the logs.
        scalars (list[dict]): Lines of ``vis_data/scalars.json``. Records of updates have ``iter``;
            in records of evaluations, ``step`` is the epoch.
        facts (dict): ``largebatch.json``; for MMEngine's own loops, also facts of the text log.
        trained (bool): False if the start only tested. Defaults to False.
        broken (int): Number of lines that are not valid JSON. Defaults to 0.
    """

    folder: Path
    scalars: list[Record] = field(default_factory=list)
    facts: Record = field(default_factory=dict)
    trained: bool = False
    broken: int = 0


def read_run(work_dir: str | Path) -> Run:
    """Read a run of this package's tools or of MMDetection's own ``train.py``.

    The logs of all restarts are merged, also with another number of ranks. Settings are those of
    the newest start, except for the initial weights.

    Args:
        work_dir (str or Path): Work folder.

    Returns:
        Run: The run.

    Raises:
        SettingError: If the folder has no logs or no valid config, or the run does not count in
            epochs.
    """
    work_dir = Path(work_dir)
    starts = _read_starts(work_dir)
    cfg = _read_config(starts[-1].folder, work_dir)
    settings.check_by_epoch(cfg, work_dir)
    last, ranks = starts[-1].facts, [start.facts.get('ranks') for start in starts]
    # A start that was stopped early may not have logged an update.
    lengths = [start.facts.get('updates_per_epoch') for start in reversed(starts)]
    iterations = next(filter(None, lengths), None)
    accumulated = settings.iterations_per_update(cfg)
    records = _merge(starts, iterations, work_dir)
    updates = [record for record in records if 'iter' in record]
    evaluations = [record for record in records if 'iter' not in record]
    box, mask = ap_names(evaluations)
    batch = settings.global_batch(cfg, ranks[-1])
    changes = zip(ranks, [None, *ranks], strict=False)
    recipe = settings.recipe_of(cfg)
    recipe['load_from'] = settings.initial_weights(_read_config(_begin(starts).folder, work_dir))
    return Run(
        work_dir=work_dir,
        optimizer=last.get('optimizer') or type_name(settings.optimizer_config(cfg)) or None,
        lr=last.get('lr') or settings.base_lr(cfg, ranks[-1]),
        global_batch=last.get('global_batch') or batch,
        ranks=tuple(rank for rank, before in changes if rank not in (None, before)),
        warmup_updates=last.get('warmup_updates', settings.warmup_updates(cfg, iterations)),
        epochs=cfg.train_cfg.max_epochs,
        seed=last.get('seed'),
        updates_per_epoch=iterations and math.ceil(iterations / accumulated),
        evaluates=settings.evaluates_last_epoch(cfg),
        updates=[_update(record, accumulated) for record in updates],
        evaluations=[_evaluation(record, box, mask) for record in evaluations],
        recipe=dict(recipe, global_batch=batch),
        max_updates=settings.max_updates(cfg, iterations),
        ended=last.get('ended') or {},
        saved_epochs=last.get('saved_epochs', 0),
        rollbacks=max(start.facts.get('rollbacks', 0) for start in starts),
        notes=tuple(_notes(work_dir, starts, evaluations, box or mask)),
    )


def _read_starts(work_dir: Path) -> list[Start]:
    """Read the starts that trained, oldest first; the newest start if none has trained yet."""
    folders = work_dir.iterdir() if work_dir.is_dir() else ()
    named = sorted(path for path in folders if re.fullmatch(r'\d{8}_\d{6}', path.name))
    starts = [_read_start(folder) for folder in named]
    starts = [start for start in starts if start.trained or _dumped_config(start.folder).is_file()]
    if not starts:
        raise SettingError(
            f'work_dir={work_dir}: no logs of a training there. Must be a work folder of train.py, '
            'which has a <timestamp>/vis_data/scalars.json or a <timestamp>/<timestamp>.log.'
        )
    return [start for start in starts if start.trained] or starts[-1:]


def _begin(starts: list[Start]) -> Start:
    """Return the newest start at update 0, or the first start if none is known to be one."""
    begun = [start for start in starts if start.facts.get('begins_at') == 0]
    return (begun or starts[:1])[-1]


def _read_start(folder: Path) -> Start:
    start = Start(folder)
    scalars = folder / 'vis_data' / 'scalars.json'
    # A killed process leaves half a line.
    for line in scalars.read_text(errors='replace').splitlines() if scalars.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            start.broken += 1
            continue
        # A test without training is logged as epoch 0.
        if isinstance(record, dict) and record.get('step', 0) > 0:
            # Prefixes of log_processor.log_with_hierarchy.
            prefix = 'train/' if 'iter' in record else 'val/'
            start.scalars.append({key.removeprefix(prefix): x for key, x in record.items()})
    log = folder / f'{folder.name}.log'
    text = log.read_text(errors='replace') if log.is_file() else ''
    if not scalars.is_file():
        start.scalars = read_scalars(text)
    try:
        start.facts = read_record(folder) or {}
    except ValueError:
        start.broken += 1
    start.trained = bool(start.scalars or start.facts)
    if 'updates_per_epoch' not in start.facts:
        start.facts = read_facts(text) | start.facts
    evaluations = [record for record in start.scalars if 'iter' not in record]
    if start.facts.get('stopped') and evaluations:
        start.facts.setdefault('ended', dict(how='stopped early', epoch=evaluations[-1]['step']))
    for record in evaluations:
        _mark_empty(record, start.facts.get('empty_evaluations'))
    return start


def _mark_empty(record: Record, empty_epochs: set[int] | None) -> None:
    """Mark an evaluation that detected nothing and drop its metrics, which are stale."""
    metrics = record.keys() - NO_METRICS
    # GlobalBatchTrainLoop logs no metrics then. MMEngine's loop logs those of the one before.
    if (not metrics) if empty_epochs is None else record['step'] in empty_epochs:
        for key in metrics:
            del record[key]
        record['nothing'] = True


def _dumped_config(folder: Path) -> Path:
    return folder / 'vis_data' / 'config.py'


def _read_config(folder: Path, work_dir: Path) -> Config:
    """Load the config that the visualizer dumped, or the Runner's copy."""
    dumped = _dumped_config(folder)
    copies = [dumped, *sorted(work_dir.glob('*.py'), key=lambda path: -path.stat().st_mtime)]
    path = next((path for path in copies if path.is_file()), None)
    if path is None:
        raise SettingError(
            f'work_dir={work_dir}: logs without a config. Must have {dumped.relative_to(work_dir)}.'
        )
    try:
        return Config.fromfile(path, import_custom_modules=False)
    except Exception as error:  # A config is a program and may raise anything.
        raise SettingError(f'config={path}: cannot be read ({error}).') from error


def _merge(starts: list[Start], iterations_per_epoch: int | None, work_dir: Path) -> list[Record]:
    """Merge the logs of all restarts, dropping updates that a later restart recomputed.

    A rollback within one start is merged in the same way.
    """
    merged: list[Record] = []
    for record in (record for start in starts for record in start.scalars):
        if 'iter' in record and 'epoch' not in record:
            if not iterations_per_epoch:
                raise SettingError(
                    f'work_dir={work_dir}: its log_processor.by_epoch=False. Must be True: results '
                    'are listed by epoch.'
                )
            record['epoch'] = math.ceil(record['step'] / iterations_per_epoch)
        while merged and _position(merged[-1]) >= _position(record):
            merged.pop()
        merged.append(record)
    return merged


def _position(record: Record) -> tuple[int, int, int]:
    """Return a key that orders the updates of an epoch before its evaluation."""
    if 'iter' in record:
        return record['epoch'], 0, record['step']
    return record['step'], 1, 0


def _update(record: Record, accumulated: int) -> LoggedUpdate:
    seconds, waited = record.get('time'), record.get('data_time')
    return LoggedUpdate(
        update=math.ceil(record['step'] / accumulated),
        epoch=record['epoch'],
        loss=record.get('loss'),
        seconds=seconds and seconds * accumulated,
        waited=waited and waited * accumulated,
    )


def _evaluation(record: Record, box: str | None, mask: str | None) -> Evaluation:
    box_ap, mask_ap = (_measured(key and record.get(key)) for key in (box, mask))
    nothing, seconds = record.get('nothing', False), record.get('time')
    return Evaluation(record['step'], box_ap, mask_ap, nothing, seconds)


def _measured(ap: Any) -> float | None:
    """Return an AP; None for the -1 of COCO and LVIS, which means no ground truth."""
    return ap if isinstance(ap, (int, float)) and math.isfinite(ap) and ap >= 0 else None


def _notes(
    work_dir: Path, starts: list[Start], evaluations: list[Record], known: str | None
) -> list[str]:
    notes, folder = several_aps(evaluations, work_dir), starts[-1].folder
    broken = sum(start.broken for start in starts)
    if broken:
        lines = 'line is' if broken == 1 else 'lines are'
        notes.append(f'{broken} {lines} not valid JSON in {work_dir}/*/vis_data/scalars.json')
    if starts[-1].facts.get('ranks') is None:
        notes.append(f'no text log {folder}/{folder.name}.log, which has the number of ranks')
    names = {key for record in evaluations for key in record.keys() - NO_METRICS}
    others = sorted(name for name in names if not name.startswith('loss'))
    if others and not known:
        logged = ', '.join(others[:5])
        notes.append(f'{work_dir}: no AP of COCO in its evaluations, which log {logged}')
    return notes
