"""Draw AP over LR and warmup, the result of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..errors import SettingError
from .plots import save
from .run import Run
from .settings import without_lr_and_warmup
from .table import number

# Legible in grey and by the colour-blind: its lightness rises steadily.
COLORMAP = 'cividis'
FRAME = '#D55E00'


def is_grid(runs: Sequence[Run]) -> bool:
    """Return True if the runs are a full grid of at least two LRs and two warmups.

    Args:
        runs (Sequence[Run]): Runs; their configs may also differ in the seed.

    Returns:
        bool: True for a full grid.
    """
    if _objection(runs):
        return False
    pairs = {(run.lr, run.warmup_updates) for run in runs}
    lrs, warmups = ({pair[index] for pair in pairs} for index in (0, 1))
    return min(len(lrs), len(warmups)) > 1 and len(pairs) == len(lrs) * len(warmups)


def draw_heatmap(runs: Sequence[Run], path: str | Path) -> None:
    """Draw box AP, and mask AP if logged, with a cell for each LR and warmup.

    A cell with several seeds shows the mean over the finished runs. A cell without a finished run
    is hatched and says why. The best cell is framed.

    Args:
        runs (Sequence[Run]): Runs; pairs of LR and warmup may be missing.
        path (str or Path): Picture to write; the suffix sets the format.

    Raises:
        SettingError: If the runs differ in more than LR, warmup and seed, or the picture cannot be
            written.
    """
    save(heatmap_figure(runs), path)


def heatmap_figure(runs: Sequence[Run]) -> Figure:
    """Return the figure of :func:`draw_heatmap`."""
    objection = _objection(runs)
    if objection:
        raise SettingError(f'A heat map is of LR and warmup alone: {objection}')
    frame = pd.DataFrame([(run, run.lr, run.warmup_updates) for run in runs])
    cells = frame.groupby([1, 2])[0].apply(list).unstack()
    panels = {'box_ap': 'box AP'}
    if any(run.mask_ap is not None for run in runs):
        panels['mask_ap'] = 'mask AP'
    width, height = 1.7 + 0.95 * cells.shape[1], 1.8 + 0.6 * cells.shape[0]
    figure = Figure(figsize=(max(4.2, width) * len(panels), height), dpi=150, layout='constrained')
    several = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (key, name) in zip(several, panels.items(), strict=True):
        _draw_panel(axes, cells, key)
        axes.set_title(name, fontsize=11)
    first = runs[0]
    length = f'{first.max_updates} updates' if first.max_updates else f'{first.epochs} epochs'
    title = f'{first.optimizer}, global batch {number(first.global_batch)}, {length}'
    figure.suptitle(f'{title}\nframe: highest AP', fontsize=11)
    return figure


def _objection(runs: Sequence[Run]) -> str | None:
    """Say why the runs are no sweep of LR and warmup; None if they are."""
    for setting in ('optimizer', 'global_batch', 'epochs', 'max_updates'):
        values = list(dict.fromkeys(getattr(run, setting) for run in runs))
        if len(values) > 1:
            return f'{setting}={", ".join(map(str, values))}. Must be one.'
    for run in runs:
        for setting in ('lr', 'warmup_updates'):
            if getattr(run, setting) is None:
                return f'work_dir={run.work_dir} has no {setting} that can be read.'
    common = without_lr_and_warmup(runs[0].recipe)
    for run in runs[1:]:
        rest = without_lr_and_warmup(run.recipe)
        keys = [key for key in {**common, **rest} if common.get(key) != rest.get(key)]
        if keys:
            return f'{runs[0].work_dir} and {run.work_dir} differ in {", ".join(keys)} too.'
    return None


def _draw_panel(axes: Axes, cells: pd.DataFrame, key: str) -> None:
    results = cells.map(lambda group: _cell(group, key))
    values = results.map(lambda result: result[0]).to_numpy(dtype=float)
    known = values[~np.isnan(values)]
    lowest, highest = (known.min(), known.max()) if known.size else (0.0, 1.0)
    # A single value gets the middle of the colours.
    margin = 0.05 if lowest == highest else 0.0
    norm = Normalize(lowest - margin, highest + margin)
    image = axes.pcolormesh(values, cmap=COLORMAP, norm=norm, edgecolors='white', lw=1.5)
    for (row, column), value in np.ndenumerate(values):
        color, box = 'white' if norm(value) < 0.5 else 'black', None
        if np.isnan(value):
            _draw_square(axes, row, column, fc='0.95', ec='0.8', hatch='///', lw=0)
            _draw_square(axes, row, column, fill=False, ec='white', lw=1.5)
            color, box = 'black', dict(fc='0.95', ec='none', pad=1)
        elif value == highest:
            frame = _draw_square(axes, row, column, fill=False, ec=FRAME, lw=3, zorder=4)
            frame.set_clip_on(False)
        text, centred = results.iloc[row, column][1], dict[str, Any](ha='center', va='center')
        axes.text(column + 0.5, row + 0.5, text, color=color, bbox=box, fontsize=8, **centred)
    if known.size:
        axes.figure.colorbar(image, ax=axes, format='%g')
    axes.set_xticks(np.arange(cells.shape[1]) + 0.5, [number(warmup) for warmup in cells.columns])
    axes.set_yticks(np.arange(cells.shape[0]) + 0.5, [number(lr) for lr in cells.index])
    axes.tick_params(length=0)
    axes.set(xlabel='warmup, updates', ylabel='learning rate')


def _draw_square(axes: Axes, row: int, column: int, **style: Any) -> Rectangle:
    square = Rectangle((column, row), 1, 1, **style)
    axes.add_patch(square)
    return square


def _cell(group: list[Run] | float, key: str) -> tuple[float, str]:
    """Return the value of a cell, NaN without one, and its text."""
    if not isinstance(group, list):
        return np.nan, '-'  # A pair that was not run.
    values = [getattr(run, key) for run in group if run.status == 'done']
    if values and None not in values:
        count = f'\nn = {len(values)} of {len(group)}' if len(group) > 1 else ''
        return mean(values), f'{mean(values):.3f}{count}'
    run = group[0]
    if len({run.status for run in group}) > 1:
        return np.nan, f'n = 0 of {len(group)}'
    if run.status in ('preempted', 'unfinished'):
        return np.nan, f'{run.epochs_done} of {run.epochs}\nepochs'
    if any(run.evaluations and run.evaluations[-1].found_nothing for run in group):
        return np.nan, 'nothing\nfound'
    # A finished run without an AP was not evaluated.
    return np.nan, '-' if run.status == 'done' else run.status
