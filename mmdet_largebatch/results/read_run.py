"""Read a run from its work folder."""

import math
import re
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import SettingError
from ..utils.record import FINISHED
from ..utils.type_names import type_name
from . import settings
from .logs import Record, Start, join, read_starts
from .run import Evaluation, LoggedUpdate, Run
from .text_log import STOPPED, epochs_without_detections

# MMEngine logs its world size under this name, with and without GPUs.
RANKS = re.compile(r'^\s+GPU number: (\d+)$', re.M)
SEED = re.compile(r'^\s+seed: (\d+)$', re.M)
ITERATIONS = re.compile(r'Epoch\(train\)\s*\[\d+\]\[\s*\d+/(\d+)\]')
SAVED = re.compile(r'Saving checkpoint at (\d+) epochs')
# What is logged of an evaluation that measured nothing.
OF_EVERY_EVALUATION = {'step', 'time', 'data_time', 'memory'}


def read_run(work_dir: str | Path) -> Run:
    """Read what a training logged, by the tools here or by MMDetection's own ``train.py``.

    Settings are those of the newest start. A run that was resumed, also on another number of
    ranks, is one run.

    Args:
        work_dir (str or Path): Its work folder.

    Returns:
        Run: The run; what the logs do not say is None in it.

    Raises:
        SettingError: If the folder holds no logs, no config that reads, or a training that does not
            count in epochs.
    """
    work_dir = Path(work_dir)
    starts = read_starts(work_dir)
    cfg = _config(starts[-1], work_dir)
    settings.check_by_epoch(cfg, work_dir)
    texts = [start.text() for start in starts]
    last = starts[-1].record
    ranks = [
        start.record.get('ranks') or _number(RANKS, text)
        for start, text in zip(starts, texts, strict=True)
    ]
    # A start that only evaluated, or whose log is rarer than that, says none of its own.
    counts = (
        start.record.get('updates_per_epoch') or _number(ITERATIONS, text)
        for start, text in zip(reversed(starts), reversed(texts), strict=True)
    )
    per_epoch = next(filter(None, counts), None)
    for start, text in zip(starts, texts, strict=True):
        _complete(start, text, per_epoch, work_dir)
    updates, evaluations = join(starts)
    box, mask = _ap_keys(evaluations, 'bbox'), _ap_keys(evaluations, 'segm')
    accumulated = settings.iterations_per_update(cfg)
    ended = starts[-1].ended
    return Run(
        work_dir=work_dir,
        optimizer=last.get('optimizer') or type_name(settings.optimizer_config(cfg)) or None,
        lr=last.get('lr') or settings.base_lr(cfg, ranks[-1]),
        global_batch=last.get('global_batch') or settings.global_batch(cfg, ranks[-1]),
        ranks=tuple(
            number
            for number, before in zip(ranks, [None, *ranks], strict=False)
            if number not in (None, before)
        ),
        warmup_updates=last.get('warmup_updates', settings.warmup_updates(cfg, per_epoch)),
        epochs=cfg.train_cfg.max_epochs,
        seed=last.get('seed', _number(SEED, texts[-1])),
        updates_per_epoch=per_epoch and -(-per_epoch // accumulated),
        last_start_ended_epochs=max(map(int, SAVED.findall(texts[-1])), default=0),
        evaluates=settings.evaluates_last_epoch(cfg),
        updates=[_update(record, accumulated) for record in updates],
        evaluations=[_evaluation(record, box, mask) for record in evaluations],
        diverged_at=ended['update'] if ended.get('how') == 'diverged' else None,
        preempted=ended.get('how') == 'preempted',
        rollbacks=max(start.record.get('rollbacks', 0) for start in starts),
        recipe=_recipe(cfg, ranks[-1]),
        notes=(*_notes(starts, texts), *_notes_on_metrics(work_dir, evaluations, box or mask)),
        max_updates=settings.max_updates(cfg, per_epoch),
        ended=ended.get('how') in FINISHED,
        stopped_at=_stopped_at(starts[-1], texts[-1], evaluations),
    )


def _config(start: Start, work_dir: Path) -> Config:
    """Load the config that the visualizer dumped, or the Runner's own copy."""
    copies = [start.config, *sorted(work_dir.glob('*.py'), key=lambda path: -path.stat().st_mtime)]
    path = next((path for path in copies if path.is_file()), None)
    if path is None:
        raise SettingError(
            f'work_dir={work_dir}: logs without a config. Must have '
            f'{start.config.relative_to(work_dir)}.'
        )
    try:
        return Config.fromfile(path, import_custom_modules=False)
    except Exception as error:
        # It is a program: whatever may be wrong with one.
        raise SettingError(f'config={path}: cannot be read ({error}).') from error


def _number(pattern: re.Pattern, text: str) -> int | None:
    found = pattern.search(text)
    return int(found.group(1)) if found else None


def _update(record: Record, accumulated: int) -> LoggedUpdate:
    seconds = record.get('time')
    return LoggedUpdate(
        update=-(-record['step'] // accumulated),
        epoch=record['epoch'],
        loss=record.get('loss'),
        seconds=seconds and seconds * accumulated,
    )


def _complete(start: Start, text: str, per_epoch: int | None, work_dir: Path) -> None:
    """Add what records lack of what the text log says, and take away what was not measured."""
    nothing = epochs_without_detections(text)
    for record in start.records:
        if 'iter' in record and 'epoch' not in record:
            if not per_epoch:
                raise SettingError(
                    f'work_dir={work_dir}: its log_processor.by_epoch=False. Must be True: results '
                    'are listed by epoch.'
                )
            record['epoch'] = -(-record['step'] // per_epoch)
        elif 'iter' not in record and record['step'] in nothing:
            # MMEngine logs the metrics of the evaluation before.
            for key in [key for key in record if key not in OF_EVERY_EVALUATION]:
                del record[key]
            record['nothing'] = True


def _ap_keys(evaluations: list[Record], kind: str) -> str | None:
    """Return the key of an AP in the log: COCO's, with any prefix, or LVIS's."""
    pattern = re.compile(rf'(?:.*/)?{kind}_m?AP')
    keys = {key: None for record in evaluations for key in record if pattern.fullmatch(key)}
    return next((key for key in keys if key == f'coco/{kind}_mAP'), next(iter(keys), None))


def _evaluation(record: Record, box: str | None, mask: str | None) -> Evaluation:
    box_ap, mask_ap = (_measured(key and record.get(key)) for key in (box, mask))
    return Evaluation(record['step'], box_ap, mask_ap, record.get('nothing', False))


def _measured(ap: Any) -> float | None:
    """Return an AP; None for the -1 of COCO and LVIS, which means no ground truth."""
    return ap if isinstance(ap, (int, float)) and math.isfinite(ap) and ap >= 0 else None


def _stopped_at(start: Start, text: str, evaluations: list[Record]) -> int | None:
    """Return the epoch at which early stopping ended the newest start."""
    if start.ended:
        return start.ended['epoch'] if start.ended['how'] == 'stopped early' else None
    # Of MMDetection's own train.py, which keeps no record.
    return evaluations[-1]['step'] if evaluations and STOPPED.search(text) else None


def _recipe(cfg: Config, ranks: int | None) -> dict[str, Any]:
    return dict(settings.recipe_of(cfg), global_batch=settings.global_batch(cfg, ranks))


def _notes(starts: list[Start], texts: list[str]) -> tuple:
    broken = sum(start.broken for start in starts)
    notes = []
    if broken:
        lines = 'line does' if broken == 1 else 'lines do'
        notes.append(
            f'{broken} {lines} not read in {starts[-1].folder.parent}/*/vis_data/scalars.json'
        )
    if not texts[-1]:
        folder = starts[-1].folder
        notes.append(f'no text log {folder}/{folder.name}.log, which has the number of ranks')
    return tuple(notes)


def _notes_on_metrics(work_dir: Path, evaluations: list[Record], known: str | None) -> tuple:
    others: set[str] = {key for record in evaluations for key in record} - OF_EVERY_EVALUATION
    others = {key for key in others if not key.startswith('loss')}
    if known or not others or others == {'nothing'}:
        return ()
    logged = ', '.join(sorted(others - {'nothing'})[:5])
    return (f'{work_dir}: no AP of COCO in its evaluations, which log {logged}',)
