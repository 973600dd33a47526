"""Write the results as a table: exact values in CSV, rounded values in Markdown."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..errors import SettingError
from .run import Run
from .text import distinct_names, duration, number, rate

# Figures of which runs that differ only in the seed give a mean and a standard deviation.
MEASURED = ('box_ap', 'mask_ap', 'training_seconds', 'images_per_second')
Row = dict[str, Any]

NOTES = """
AP: of the last evaluation, COCO's mAP at IoU 0.50:0.95. LR: after the warmup. Warmup: in updates.
Training time: sum of the logged iteration times, h:mm:ss, without evaluations, restarts and updates
computed twice. Images a second: global batch / median time of an update.
"""


def group_by_seed(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ in the seed alone together.

    Args:
        runs (Sequence[Run]): The runs.

    Returns:
        list[list[Run]]: The groups, in the order of their first runs.
    """
    groups: list[list[Run]] = []
    for run in runs:
        fitting = (
            group
            for group in groups
            if group[0].recipe == run.recipe
            and None not in (run.seed, group[0].seed)
            and run.seed not in (other.seed for other in group)
        )
        group = next(fitting, None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def table_rows(runs: Sequence[Run], group_seeds: bool = False) -> list[Row]:
    """Return one row for each run, or for each recipe.

    Args:
        runs (Sequence[Run]): The runs.
        group_seeds (bool): Whether runs that differ only in the seed share a row, with the mean and
            the standard deviation (of a sample, n - 1) over those that are done.
            Defaults to False.

    Returns:
        list[dict]: Exact values by column, None where there is none. APs are in [0, 1], times in
        seconds.
    """
    names = dict(zip(map(id, runs), distinct_names(runs), strict=True))
    if not group_seeds:
        return [_row_of_run(run, names[id(run)]) for run in runs]
    return [_row_of_group(group, names[id(group[0])]) for group in group_by_seed(runs)]


def _row_of_run(run: Run, name: str) -> Row:
    return dict(
        run=name,
        optimizer=run.optimizer,
        global_batch=run.global_batch,
        ranks=', '.join(map(str, run.ranks)) or None,
        lr=run.lr,
        warmup_updates=run.warmup_updates,
        epochs_done=run.epochs_trained,
        epochs=run.epochs,
        max_updates=run.max_updates,
        box_ap=run.box_ap,
        mask_ap=run.mask_ap,
        ap_epoch=run.ap_epoch,
        training_seconds=run.training_seconds,
        images_per_second=run.images_per_second,
        seed=run.seed,
        status=run.status_text,
        work_dir=str(run.work_dir),
    )


def _row_of_group(group: list[Run], name: str) -> Row:
    row = _row_of_run(group[0], name)
    row['n'] = done = sum(run.status == 'done' for run in group)
    row.update({f'{key}_std': None for key in MEASURED})
    if len(group) == 1:
        return row
    for key in MEASURED:
        values = [getattr(run, key) for run in group if run.status == 'done']
        values = [] if None in values else values
        row[key] = mean(values) if values else None
        row[f'{key}_std'] = stdev(values) if len(values) > 1 else None
    numbers = [rank for run in group for rank in run.ranks]
    row['ranks'] = ', '.join(map(str, dict.fromkeys(numbers))) or None
    row['epochs_done'] = min(run.epochs_trained for run in group)
    epochs = {run.ap_epoch for run in group if run.status == 'done'}
    row['ap_epoch'] = epochs.pop() if len(epochs) == 1 else None
    row['seed'] = ', '.join('-' if run.seed is None else str(run.seed) for run in group)
    others = [run.status_text for run in group if run.status != 'done']
    row['status'] = ', '.join([f'{done} of {len(group)} done', *others])
    row['work_dir'] = ', '.join(str(run.work_dir) for run in group)
    return row


def as_markdown(rows: Sequence[Row]) -> str:
    """Format the rows as Markdown, with AP to 3 decimals as COCO's evaluation prints it.

    Args:
        rows (Sequence[dict]): From :func:`table_rows`.

    Returns:
        str: A Markdown table; ``-`` where there is no value.
    """
    cells = [_cells(row) for row in rows]
    right = {'global batch', 'ranks', 'LR', 'warmup', 'epochs', 'box AP', 'mask AP'}
    right |= {'training time', 'images a second'}
    rule = ['---:' if heading in right else '---' for heading in cells[0]]
    lines = [list(cells[0]), rule, *(list(row.values()) for row in cells)]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _cells(row: Row) -> dict[str, str]:
    done, wanted = row['epochs_done'], row['epochs']
    ends = (None, wanted if row['max_updates'] is None else math.ceil(done))
    after = f' (epoch {row["ap_epoch"]})' if row['ap_epoch'] not in ends else ''
    cells = {
        'run': row['run'],
        'optimizer': row['optimizer'] or '-',
        'global batch': number(row['global_batch']),
        'ranks': row['ranks'] or '-',
        'LR': number(row['lr']),
        'warmup': number(row['warmup_updates']),
        'epochs': str(wanted) if done == wanted else f'{done:g} of {wanted}',
        'box AP': _measured(row, 'box_ap', '{:.3f}'.format, after),
        'mask AP': _measured(row, 'mask_ap', '{:.3f}'.format, after),
        'training time': _measured(row, 'training_seconds', duration),
        'images a second': _measured(row, 'images_per_second', rate),
        'status': row['status'],
    }
    if 'n' in row:
        cells['n'] = str(row['n'])
    return {heading: text.replace('|', '\\|') for heading, text in cells.items()}


def _measured(row: Row, key: str, written: Callable[[Any], str], after: str = '') -> str:
    value, deviation = row[key], row.get(f'{key}_std')
    if value is None:
        return '-'
    return written(value) + (f' ± {written(deviation)}' if deviation is not None else '') + after


def write_table(runs: Sequence[Run], folder: str | Path, group_seeds: bool = False) -> str:
    """Write ``results.md``, ``results.csv`` and ``ap_by_epoch.csv``.

    Args:
        runs (Sequence[Run]): The runs, at least one.
        folder (str or Path): Where to; made if it is not there.
        group_seeds (bool): See :func:`table_rows`. Defaults to False.

    Returns:
        str: The Markdown table.

    Raises:
        SettingError: If the files cannot be written.
    """
    folder = Path(folder)
    rows = table_rows(runs, group_seeds)
    table = as_markdown(rows)
    names = distinct_names(runs)
    by_epoch = [
        dict(run=name, epoch=one.epoch, box_ap=one.box_ap, mask_ap=one.mask_ap)
        for run, name in zip(runs, names, strict=True)
        for one in run.evaluations
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'results.md').write_text(table + NOTES)
        (folder / 'results.csv').write_text(_as_csv(rows))
        heads = ['run', 'epoch', 'box_ap', 'mask_ap']
        (folder / 'ap_by_epoch.csv').write_text(_as_csv(by_epoch, heads))
    except OSError as error:
        raise SettingError(f'--out {folder}: cannot be written ({error.strerror}).') from error
    return table


def _as_csv(rows: Sequence[Row], columns: list[str] | None = None) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or list(rows[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
