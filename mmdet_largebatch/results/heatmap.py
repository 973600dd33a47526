"""AP over LR and warmup: what a sweep found."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ..errors import SettingError
from .run import Run
from .settings import without_lr_and_warmup
from .style import save
from .text import number

# Read by the colour-blind and in grey as by others: its lightness rises all the way.
COLORMAP = 'cividis'
FRAME = '#D55E00'
Cells = dict[tuple[float, int], list[Run]]


def is_grid(runs: Sequence[Run]) -> bool:
    """Return True if runs differ in LR and warmup alone.

    Args:
        runs (Sequence[Run]): The runs.

    Returns:
        bool: True if each of two LRs at least was run with each of two warmups at least, and the
        configs differ in nothing else but the seed.
    """
    if _objection(runs):
        return False
    cells, lrs, warmups = _cells(runs)
    return len(lrs) > 1 and len(warmups) > 1 and len(cells) == len(lrs) * len(warmups)


def draw_heatmap(runs: Sequence[Run], path: str | Path) -> None:
    """Draw box AP, and mask AP where it was logged, a cell for each LR and warmup.

    A cell has a colour if its run is done; several runs that differ in the seed give their mean.
    Other cells are hatched and say why. The best is framed.

    Args:
        runs (Sequence[Run]): The runs; pairs of LR and warmup may be missing.
        path (str or Path): The picture; its suffix says the format.

    Raises:
        SettingError: If the runs differ in more than LR, warmup and seed, one has none of them in
            its config, or the picture cannot be written.
    """
    save(heatmap_figure(runs), path)


def heatmap_figure(runs: Sequence[Run]) -> Figure:
    """Return the figure of :func:`draw_heatmap`.

    Args:
        runs (Sequence[Run]): The runs.

    Returns:
        Figure: For ``savefig``.

    Raises:
        SettingError: If the runs are no sweep of LR and warmup.
    """
    objection = _objection(runs)
    if objection:
        raise SettingError(f'A heat map is of LR and warmup alone: {objection}')
    cells, lrs, warmups = _cells(runs)
    panels = [('box_ap', 'box AP')]
    if any(run.mask_ap is not None for run in runs):
        panels.append(('mask_ap', 'mask AP'))
    width, height = 1.7 + 0.95 * len(warmups), 1.8 + 0.6 * len(lrs)
    figure = Figure(figsize=(max(4.2, width) * len(panels), height), dpi=150, layout='constrained')
    several = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (key, name) in zip(several, panels, strict=True):
        _draw_panel(axes, cells, lrs, warmups, key)
        axes.set_title(name, fontsize=11)
    first = runs[0]
    length = f'{first.max_updates} updates' if first.max_updates else f'{first.epochs} epochs'
    title = f'{first.optimizer}, global batch {number(first.global_batch)}, {length}'
    figure.suptitle(f'{title}\nframe: highest AP', fontsize=11)
    return figure


def _objection(runs: Sequence[Run]) -> str | None:
    """Why runs are no sweep of LR and warmup, in a sentence."""
    for setting in ('optimizer', 'global_batch', 'epochs', 'max_updates'):
        values = list(dict.fromkeys(getattr(run, setting) for run in runs))
        if len(values) > 1:
            return f'{setting}={", ".join(map(str, values))}. Must be one.'
    for run in runs:
        for setting in ('lr', 'warmup_updates'):
            if getattr(run, setting) is None:
                return f'work_dir={run.work_dir} has no {setting} that can be read.'
    first, *others = runs
    common = without_lr_and_warmup(first.recipe)
    for run in others:
        rest = without_lr_and_warmup(run.recipe)
        keys = [key for key in {**common, **rest} if common.get(key) != rest.get(key)]
        if keys:
            return f'{first.work_dir} and {run.work_dir} differ in {", ".join(keys)} too.'
    return None


def _cells(runs: Sequence[Run]) -> tuple[Cells, list[float], list[int]]:
    cells: Cells = {}
    for run in runs:
        if run.lr is not None and run.warmup_updates is not None:
            cells.setdefault((run.lr, run.warmup_updates), []).append(run)
    return cells, sorted({lr for lr, _ in cells}), sorted({warmup for _, warmup in cells})


def _draw_panel(axes: Axes, cells: Cells, lrs: list[float], warmups: list[int], key: str) -> None:
    values = np.full((len(lrs), len(warmups)), np.nan)
    texts = {}
    for row, lr in enumerate(lrs):
        for column, warmup in enumerate(warmups):
            value, texts[row, column] = _cell(cells.get((lr, warmup), []), key)
            values[row, column] = np.nan if value is None else value
    known = values[~np.isnan(values)]
    highest = known.max() if known.size else 1.0
    lowest = known.min() if known.size else 0.0
    # One value alone gets the middle of the colours.
    margin = 0.05 if lowest == highest else 0.0
    norm = Normalize(lowest - margin, highest + margin)
    image = axes.pcolormesh(values, cmap=COLORMAP, norm=norm, edgecolors='white', lw=1.5)
    for place, text in texts.items():
        _draw_cell(axes, place, values[place], text, norm)
        if values[place] == highest:
            _outline(axes, place, ec=FRAME, lw=3, zorder=4).set_clip_on(False)
    if known.size:
        axes.figure.colorbar(image, ax=axes, format='%g')
    axes.set_xticks(np.arange(len(warmups)) + 0.5, [number(warmup) for warmup in warmups])
    axes.set_yticks(np.arange(len(lrs)) + 0.5, [number(lr) for lr in lrs])
    axes.tick_params(length=0)
    axes.set(xlabel='warmup, updates', ylabel='learning rate')


def _draw_cell(
    axes: Axes, place: tuple[int, int], value: float, text: str, norm: Normalize
) -> None:
    row, column = place
    box, color = None, 'black'
    if np.isnan(value):
        hatched: dict[str, Any] = dict(fc='0.95', ec='0.8', hatch='///', lw=0)
        axes.add_patch(Rectangle((column, row), 1, 1, **hatched))
        _outline(axes, place, ec='white', lw=1.5)
        box = dict(fc='0.95', ec='none', pad=1)
    elif norm(value) < 0.5:
        color = 'white'
    centred: dict[str, Any] = dict(ha='center', va='center', fontsize=8)
    axes.text(column + 0.5, row + 0.5, text, color=color, bbox=box, **centred)


def _outline(axes: Axes, place: tuple[int, int], **style: Any) -> Patch:
    row, column = place
    return axes.add_patch(Rectangle((column, row), 1, 1, fill=False, **style))


def _cell(group: list[Run], key: str) -> tuple[float | None, str]:
    """Return the value that colours a cell, and its text."""
    if not group:
        return None, '-'
    values = [getattr(run, key) for run in group if run.status == 'done']
    if values and None not in values:
        count = f'\nn = {len(values)} of {len(group)}' if len(group) > 1 else ''
        return mean(values), f'{mean(values):.3f}{count}'
    run = group[0]
    if len(group) > 1 and len({run.status for run in group}) > 1:
        return None, f'n = 0 of {len(group)}'
    if run.status in ('preempted', 'unfinished'):
        return None, f'{run.epochs_done} of {run.epochs}\nepochs'
    if any(run.evaluations and run.evaluations[-1].found_nothing for run in group):
        return None, 'nothing\nfound'
    # Done without an AP: nothing was evaluated.
    return None, '-' if run.status == 'done' else run.status
