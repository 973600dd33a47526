"""Compare COCO runs with public trainings of Mask R-CNN R50.

The table holds quantiles of AP by batch and epoch of public training logs; its header names the
source and the licence. All public trainings use SGD and other code than MMDetection's.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import SettingError
from ..utils.type_names import type_name
from .plots import COLORS, DASHES, MARKERS, labels, run_styles, save
from .run import Run
from .table import distinct_names

TABLE = Path(__file__).with_name('public_coco.csv')
QUANTILES = (5, 25, 50, 75, 95)
NAMES = {'box_ap': 'box AP', 'mask_ap': 'mask AP'}
VAL2017 = 'instances_val2017.json'


def read_public(path: str | Path = TABLE) -> pd.DataFrame:
    """Read the table of public trainings.

    Args:
        path (str or Path): Table. Defaults to the table of the package.

    Returns:
        pd.DataFrame: Columns ``global_batch``, ``epoch``, ``trainings``, and ``box_ap_5`` to
        ``mask_ap_95``.
    """
    return pd.read_csv(path, comment='#')


def check_comparable(run: Run) -> None:
    """Refuse a run that is not comparable to the public trainings.

    Args:
        run (Run): Run.

    Raises:
        SettingError: If the run is not Mask R-CNN R50 evaluated on COCO val2017.
    """
    model = run.recipe.get('model') or {}
    depth = (model.get('backbone') or {}).get('depth')
    evaluation = repr([run.recipe.get(key) for key in ('val_dataloader', 'val_evaluator')])
    if type_name(model) != 'MaskRCNN' or depth != 50 or VAL2017 not in evaluation:
        raise SettingError(
            f'--public: work_dir={run.work_dir} cannot be compared. Must be a Mask R-CNN R50 '
            f'evaluated on COCO ({VAL2017}).'
        )
    if run.global_batch is None:
        raise SettingError(f'--public: work_dir={run.work_dir} has no global batch in its logs.')


def nearest_batch(run: Run, table: pd.DataFrame) -> int:
    """Return the batch of the public trainings with the ratio to the run's batch nearest to 1."""
    batches = table.global_batch.unique()
    return int(min(batches, key=lambda batch: abs(math.log(batch / run.global_batch))))


def compare(run: Run, table: pd.DataFrame) -> list[str]:
    """Place the box AP of each epoch among the public trainings of the nearest batch.

    Percentiles are interpolated between the quantiles of the table.

    Args:
        run (Run): Run.
        table (pd.DataFrame): From :func:`read_public`.

    Returns:
        list[str]: A line for each evaluation, such as ``epoch 3: box AP 0.241, the 31st percentile
        of 81 public trainings at batch 128``.

    Raises:
        SettingError: If the run is not comparable.
    """
    check_comparable(run)
    batch = nearest_batch(run, table)
    epochs = table[table.global_batch == batch].set_index('epoch')
    lines = []
    for one in run.evaluations:
        if one.box_ap is None or one.epoch not in epochs.index:
            continue
        public = epochs.loc[one.epoch]
        quantiles = [public[f'box_ap_{quantile}'] for quantile in QUANTILES]
        if one.box_ap < quantiles[0]:
            place = f'below the band: under the {QUANTILES[0]}th percentile'
        elif one.box_ap > quantiles[-1]:
            place = f'above the {QUANTILES[-1]}th percentile'
        else:
            place = f'the {_ordinal(round(np.interp(one.box_ap, quantiles, QUANTILES)))} percentile'
        count = f'{public.trainings:.0f} public trainings at batch {batch}'
        lines.append(f'epoch {one.epoch}: box AP {one.box_ap:.3f}, {place} of {count}')
    return lines or [f'no box AP in epochs 1 to {epochs.index.max()}, which public trainings have']


def _ordinal(number: int) -> str:
    ending = {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')
    return f'{number}{"th" if number % 100 in (11, 12, 13) else ending}'


def public_report(runs: Sequence[Run], path: str | Path, table: pd.DataFrame | None = None) -> str:
    """Compare runs with the public trainings and draw them over the bands.

    Args:
        runs (Sequence[Run]): Runs, at least one.
        path (str or Path): Picture to write.
        table (pd.DataFrame, optional): Public trainings. None for the table of the package.

    Returns:
        str: The lines of :func:`compare` below the name of each run.

    Raises:
        SettingError: If a run is not comparable or the picture cannot be written.
    """
    table = read_public() if table is None else table
    texts = []
    for run, name in zip(runs, distinct_names(runs), strict=True):
        texts += [name, *(f'  {line}' for line in compare(run, table))]
    save(public_figure(runs, table), path)
    return '\n'.join(texts) + '\n'


def public_figure(runs: Sequence[Run], table: pd.DataFrame) -> Figure:
    """Return the figure of runs over the bands of their nearest batches, one row for each batch."""
    nearest = [nearest_batch(run, table) for run in runs]
    lines = list(zip(runs, nearest, labels(runs), run_styles(runs), strict=True))
    batches = sorted(set(nearest))
    figure = Figure(figsize=(9, 4.2 * len(batches)), dpi=150, layout='constrained')
    rows = figure.subplots(len(batches), 2, squeeze=False)
    for batch, row in zip(batches, rows, strict=True):
        public = table[table.global_batch == batch].set_index('epoch')
        for axes, (key, name) in zip(row, NAMES.items(), strict=True):
            for low, high, alpha in ((5, 95, 0.12), (25, 75, 0.35)):
                band = public[f'{key}_{low}'], public[f'{key}_{high}']
                text = f'{low}th to {high}th percentile'
                axes.fill_between(public.index, *band, color='black', alpha=alpha, lw=0, label=text)
            for run, at, text, style in lines:
                aps = pd.Series({one.epoch: getattr(one, key) for one in run.evaluations})
                if at == batch:
                    axes.plot(aps.index, aps.astype(float), lw=1.5, ms=5, **style, label=text)
            _finish(axes, name, f'{public.trainings.max()} public trainings at batch {batch}')
    # One legend below: within the panels it would hide runs of low AP.
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(text, handle)
    columns = 1 if max(map(len, handles)) > 50 else 2
    place: dict[str, Any] = dict(loc='outside lower center', ncols=columns, frameon=False)
    figure.legend(list(handles.values()), list(handles), fontsize=8, handlelength=4.5, **place)
    return figure


def batches_figure(table: pd.DataFrame, batches: Sequence[int] = (8, 64, 96, 128, 256)) -> Figure:
    """Return the figure of the median AP by epoch for several batches.

    Args:
        table (pd.DataFrame): From :func:`read_public`.
        batches (Sequence[int]): Batches to draw.

    Returns:
        Figure: Figure for ``savefig``.
    """
    figure = Figure(figsize=(9, 4.2), dpi=150, layout='constrained')
    for axes, (key, name) in zip(figure.subplots(1, 2), NAMES.items(), strict=True):
        for index, batch in enumerate(batches):
            public = table[table.global_batch == batch].set_index('epoch')
            style = dict(color=COLORS[index], ls=DASHES[index % 4], marker=MARKERS[index])
            text = f'batch {batch} ({public.trainings.max()} trainings)'
            axes.plot(public.index, public[f'{key}_50'], ms=4, lw=1.5, label=text, **style)
        _finish(axes, name, f'{name}: median of public trainings')
        axes.legend(loc='lower right', fontsize=8, frameon=False)
    return figure


def _finish(axes: Axes, name: str, title: str) -> None:
    axes.set(xlabel='epoch', ylabel=f'{name} (COCO val2017)', xlim=0, ylim=0)
    axes.set_title(title, fontsize=10)
    axes.grid(color='0.9')
