"""A run, read from its work folder."""

import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from mmengine.config import Config

from ..errors import SettingError
from ..type_names import type_name
from . import settings
from .logs import Record, Start, join, read_starts
from .run import Evaluation, LoggedUpdate, Run

# MMEngine logs its world size under this name, with and without GPUs.
RANKS = re.compile(r'^\s+GPU number: (\d+)$', re.M)
SEED = re.compile(r'^\s+seed: (\d+)$', re.M)
ITERATIONS = re.compile(r'Epoch\(train\)\s*\[\d+\]\[\s*\d+/(\d+)\]')
# GlobalBatchTrainLoop's own first line, there before any update is.
UPDATES = re.compile(r'global batch \d+, (\d+) updates an epoch')
SAVED = re.compile(r'Saving checkpoint at (\d+) epochs')
ROLLBACK = re.compile(r'Rollback (\d+) of \d+: back to ')


def read_run(work_dir: Union[str, Path]) -> Run:
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
    updates, evaluations = join(starts)

    ranks = [_number(RANKS, text) for text in texts]
    per_epoch = _number(UPDATES, texts[-1]) or _number(ITERATIONS, texts[-1])
    accumulated = settings.iterations_per_update(cfg)
    divergence = starts[-1].divergence
    return Run(
        work_dir=work_dir,
        optimizer=type_name(settings.optimizer_config(cfg)) or None,
        lr=settings.base_lr(cfg, ranks[-1]),
        global_batch=settings.global_batch(cfg, ranks[-1]),
        ranks=tuple(
            number
            for number, before in zip(ranks, [None, *ranks], strict=False)
            if number not in (None, before)
        ),
        warmup_updates=settings.warmup_updates(cfg, per_epoch),
        epochs=cfg.train_cfg.max_epochs,
        seed=_number(SEED, texts[-1]),
        updates_per_epoch=per_epoch and -(-per_epoch // accumulated),
        last_start_ended_epochs=max(map(int, SAVED.findall(texts[-1])), default=0),
        evaluates=settings.evaluates_last_epoch(cfg),
        updates=[_update(record, accumulated) for record in updates],
        evaluations=[_evaluation(record) for record in evaluations],
        diverged_at=divergence and divergence['update'],
        preempted='Preempted (' in texts[-1],
        rollbacks=max(
            (int(number) for text in texts for number in ROLLBACK.findall(text)), default=0
        ),
        recipe=_recipe(cfg, ranks[-1]),
        notes=_notes(starts, texts),
        max_updates=settings.max_updates(cfg, per_epoch),
    )


def _config(start: Start, work_dir: Path) -> Config:
    """The config that the visualizer dumped, or the Runner's own copy beside the folder."""
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


def _number(pattern: re.Pattern, text: str) -> Optional[int]:
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


def _evaluation(record: Record) -> Evaluation:
    return Evaluation(record['step'], record.get('coco/bbox_mAP'), record.get('coco/segm_mAP'))


def _recipe(cfg: Config, ranks: Optional[int]) -> Dict[str, Any]:
    return dict(settings.recipe_of(cfg), global_batch=settings.global_batch(cfg, ranks))


def _notes(starts: List[Start], texts: List[str]) -> tuple:
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
