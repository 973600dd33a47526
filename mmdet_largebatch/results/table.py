"""Tabulate runs: exact values in CSV, rounded values in Markdown."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SettingError
from .run import Run

# Columns with a mean and a standard deviation over seeds.
MEASURED = ['box_ap', 'mask_ap', 'training_seconds', 'images_per_second']
LEFT_ALIGNED = ('run', 'optimizer', 'status', 'n')

NOTES = """
AP: of the last evaluation, COCO's mAP at IoU 0.50:0.95. LR: after the warmup. Warmup: in updates.
Training time: sum of the logged iteration times, h:mm:ss, without evaluations, restarts and updates
computed twice. Images a second: global batch / median time of an update.
"""


def as_frame(runs: Sequence[Run], group_seeds: bool = False) -> pd.DataFrame:
    """Return the runs as a data frame with the columns of ``results.csv``.

    Args:
        runs (Sequence[Run]): Runs.
        group_seeds (bool): Merge runs that differ only in the seed into one row: mean and sample
            standard deviation over the finished runs. Defaults to False.

    Returns:
        pd.DataFrame: Exact values; None or NaN where missing. AP in [0, 1], times in seconds.
    """
    rows = [
        dict(
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
        for run, name in zip(runs, distinct_names(runs), strict=True)
    ]
    # Of objects: with floats, a missing value would turn a column of integers into floats.
    frame = pd.DataFrame(rows, dtype=object)
    if not group_seeds:
        return frame
    merged = [_merge_seeds(frame.iloc[group]) for group in group_by_seed(runs)]
    return pd.DataFrame(merged, dtype=object)


def group_by_seed(runs: Sequence[Run]) -> list[list[int]]:
    """Group runs that differ only in the seed.

    Runs without a seed stay alone. A seed that occurs again starts another group. Returns the
    positions of the runs of each group, ordered by their first run.
    """
    recipes = [run.recipe for run in runs]
    # Recipes cannot be hashed; a recipe is numbered by its first run.
    numbers = [recipes.index(recipe) for recipe in recipes]
    keys = pd.DataFrame(dict(recipe=numbers, seed=[run.seed for run in runs]))
    repeat = keys.groupby(['recipe', 'seed'], dropna=False).cumcount()
    groups = keys.groupby(['recipe', keys.seed.isna(), repeat], sort=False)
    return [list(group.index) for _, group in groups]


def _merge_seeds(group: pd.DataFrame) -> dict[str, Any]:
    """Return one row for runs that differ only in the seed."""
    row, done = group.iloc[0].to_dict(), group[group.status.str.startswith('done')]
    values = done[MEASURED].astype(float)
    if len(group) > 1:
        ranks = ', '.join(group.ranks.dropna()).split(', ')
        row |= values.mean(skipna=False).to_dict()
        row |= dict(
            ranks=', '.join(dict.fromkeys(ranks)) or None,
            epochs_done=group.epochs_done.min(),
            ap_epoch=done.ap_epoch.iloc[0] if done.ap_epoch.nunique(dropna=False) == 1 else None,
            seed=', '.join(map(str, group.seed)),
            status=', '.join([f'{len(done)} of {len(group)} done', *group.status.drop(done.index)]),
            work_dir=', '.join(group.work_dir),
        )
    return row | dict(n=len(done)) | values.std(skipna=False).add_suffix('_std').to_dict()


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """Return the name of each work folder, with as much of the path as differs."""
    parts = [run.work_dir.resolve().parts for run in runs]
    names, depth = ['/'.join(path[-1:]) for path in parts], 1
    while len(set(names)) < len(set(parts)):
        depth += 1
        names = ['/'.join(path[-depth:]) for path in parts]
    return names


def as_markdown(frame: pd.DataFrame) -> str:
    """Format runs as a Markdown table, with AP to 3 decimals like COCO's evaluation.

    Args:
        frame (pd.DataFrame): Runs, from :func:`as_frame`.

    Returns:
        str: Table; ``-`` where a value is missing.
    """
    cells = pd.DataFrame([_cells(row) for row in frame.to_dict('records')])
    cells = cells.map(lambda text: text.replace('|', '\\|'))
    align = ['left' if name in LEFT_ALIGNED else 'right' for name in cells]
    return f'{cells.to_markdown(index=False, disable_numparse=True, colalign=align)}\n'


def _cells(row: dict[str, Any]) -> dict[str, str]:
    done, wanted = row['epochs_done'], row['epochs']
    last = wanted if pd.isna(row['max_updates']) else math.ceil(done)
    early = not pd.isna(row['ap_epoch']) and row['ap_epoch'] != last
    after = f' (epoch {row["ap_epoch"]})' if early else ''
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
        'training time': _measured(row, 'training_seconds', _duration),
        'images a second': _measured(row, 'images_per_second', _rate),
        'status': row['status'],
    }
    return cells | ({'n': str(row['n'])} if 'n' in row else {})


def _measured(row: dict[str, Any], key: str, text: Callable[[Any], str], after: str = '') -> str:
    if pd.isna(row[key]):
        return '-'
    std = row.get(f'{key}_std')
    return text(row[key]) + ('' if pd.isna(std) else f' ± {text(std)}') + after


def number(value: float | None) -> str:
    """Format a setting to 6 digits; ``-`` for None."""
    return '-' if pd.isna(value) else f'{value:.6g}'


def _rate(value: float) -> str:
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02}:{rest:02}'


def write_table(runs: Sequence[Run], folder: str | Path, group_seeds: bool = False) -> str:
    """Write ``results.md``, ``results.csv`` and ``ap_by_epoch.csv``.

    Args:
        runs (Sequence[Run]): Runs, at least one.
        folder (str or Path): Folder to write to; created if missing.
        group_seeds (bool): See :func:`as_frame`. Defaults to False.

    Returns:
        str: The Markdown table.

    Raises:
        SettingError: If the files cannot be written.
    """
    folder, frame = Path(folder), as_frame(runs, group_seeds)
    table = as_markdown(frame)
    aps = [
        (name, one.epoch, one.box_ap, one.mask_ap)
        for run, name in zip(runs, distinct_names(runs), strict=True)
        for one in run.evaluations
    ]
    by_epoch = pd.DataFrame(aps, columns=['run', 'epoch', 'box_ap', 'mask_ap'], dtype=object)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'results.md').write_text(table + NOTES)
        frame.to_csv(folder / 'results.csv', index=False)
        by_epoch.to_csv(folder / 'ap_by_epoch.csv', index=False)
    except OSError as error:
        raise SettingError(f'--out {folder}: cannot be written ({error.strerror}).') from error
    return table
