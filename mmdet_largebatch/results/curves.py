"""AP by epoch and loss by update, a line a run."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from .run import Run
from .style import run_styles, save
from .table import group_by_seed
from .text import labels

# Points of a loss curve; more are averaged, or lines that cross would hide each other.
MOST_POINTS = 60
# With one run so many times as long as another in updates, their axis is logarithmic: the short one
# would be squeezed into its first part.
FAR_APART = 4
# Of the picture, in inches.
WIDTH = 9
CROSS: dict[str, Any] = dict(color='black', ls='none', marker='x', ms=9, mew=2.2)


def draw_curves(runs: Sequence[Run], path: str | Path, group_seeds: bool = False) -> None:
    """Draw box AP by epoch, mask AP where it was logged, and the loss by update; a legend below.

    A cross ends the loss of a run that diverged or became nan.

    Args:
        runs (Sequence[Run]): The runs, at least one.
        path (str or Path): The picture; its suffix says the format.
        group_seeds (bool): Whether runs that differ only in the seed, and are done, share a line:
            their mean, in a band from the least to the greatest value. Defaults to False.

    Raises:
        SettingError: If it cannot be written.
    """
    save(curves_figure(runs, group_seeds), path)


def curves_figure(runs: Sequence[Run], group_seeds: bool = False) -> Figure:
    """Return the figure of :func:`draw_curves`.

    Args:
        runs (Sequence[Run]): The runs, at least one.
        group_seeds (bool): See :func:`draw_curves`. Defaults to False.

    Returns:
        Figure: For ``savefig``; no window and no global setting of matplotlib is touched.
    """
    groups = _groups(runs) if group_seeds else [[run] for run in runs]
    # A line of several seeds has none in its label.
    runs = [replace(group[0], seed=None) if len(group) > 1 else group[0] for group in groups]
    texts, styles = labels(runs), run_styles(runs)
    # At matplotlib's 10 points a letter is 6.6 points wide, line and gaps of a column are 75.
    longest = max(map(len, texts))
    size = min(10.0, 10 * (WIDTH * 72 - 80) / (6.6 * longest))
    columns = max(1, min(4, len(runs), int(WIDTH * 72 / (75 + 6.6 * longest))))
    lines = math.ceil((len(runs) + 1) / columns)
    figure = Figure(figsize=(WIDTH, 7 + 0.22 * lines), dpi=150, layout='constrained')
    with_masks = any(one.mask_ap is not None for run in runs for one in run.evaluations)
    names = {'box_ap': 'box AP', 'mask_ap': 'mask AP'} if with_masks else {'box_ap': 'box AP'}
    panels = figure.subplot_mosaic([list(names), ['loss'] * len(names)])
    for key, name in names.items():
        _draw_ap(panels[key], groups, styles, key, name)
    _draw_losses(panels['loss'], groups, styles)

    handles = [
        panels['loss'].plot([], [], **style, lw=1.5, ms=5, label=text)[0]
        for style, text in zip(styles, texts, strict=True)
    ]
    if any(run.status in ('diverged', 'nan') for run in runs):
        handles += panels['loss'].plot([], [], **CROSS, label='diverged, or nan from here')
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=columns,
        fontsize=size,
        handlelength=4.5,
        frameon=False,
    )
    return figure


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs to share a line; one that is not done has its own."""
    groups: list[list[Run]] = []
    for group in group_by_seed(runs):
        done = [run for run in group if run.status == 'done']
        groups += [done] * bool(done) + [[run] for run in group if run.status != 'done']
    return groups


def _draw_ap(
    axes: Axes, groups: list[list[Run]], styles: list[dict[str, Any]], key: str, name: str
) -> None:
    axes.set(xlabel='epoch', ylabel=f'{name} (COCO mAP)')
    drawn = False
    for group, style in zip(groups, styles, strict=True):
        points = [_ap_points(run, key) for run in group]
        if all(map(len, points)):
            _draw_line(axes, points, style)
            drawn = True
    if not drawn:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, f'no {name} was logged', transform=axes.transAxes, ha='center')
        return
    axes.set_xlim(0, max(run.epochs for group in groups for run in group) * 1.03)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color='0.9')


def _ap_points(run: Run, key: str) -> np.ndarray:
    """Epochs and APs, of shape (points, 2)."""
    aps = [(one.epoch, getattr(one, key)) for one in run.evaluations]
    points: list[tuple[float, float]] = [point for point in aps if point[1] is not None]
    if points and run.status == 'done':
        # The last epoch is a short one where the run was cut.
        points[-1] = (min(points[-1][0], run.epochs_trained), points[-1][1])
    return np.array(points, dtype=float).reshape(-1, 2)


def _draw_line(
    axes: Axes,
    points: list[np.ndarray],
    style: dict[str, Any],
    markevery: tuple[int, int] | None = None,
) -> np.ndarray:
    """Draw the mean of several curves in a band of their range; give back what was drawn."""
    shared = sorted(set.intersection(*(set(curve[:, 0]) for curve in points)))
    values = np.array([curve[np.isin(curve[:, 0], shared), 1] for curve in points])
    axes.plot(shared, values.mean(axis=0), lw=1.5, ms=5, markevery=markevery, **style)
    if len(points) > 1:
        band = dict(color=style['color'], alpha=0.2, lw=0)
        axes.fill_between(shared, values.min(axis=0), values.max(axis=0), **band)
    return np.stack([shared, values.mean(axis=0)], axis=1)


def _draw_losses(axes: Axes, groups: list[list[Run]], styles: list[dict[str, Any]]) -> None:
    axes.set(xlabel='optimizer update', ylabel='training loss')
    losses = [[_finite_losses(run) for run in group] for group in groups]
    losses = [[points for points in group if len(points)] for group in losses]
    logged = [points for group in losses for points in group]
    if not logged:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, 'no loss was logged', transform=axes.transAxes, ha='center')
        return
    stopped = [group[0].status in ('diverged', 'nan') for group in groups]
    good = [x for group, bad in zip(losses, stopped, strict=True) if not bad for x in group]
    ends = [points[-1, 0] for points in good or logged]
    far_apart = max(ends) > FAR_APART * min(ends)
    curves = []
    for number, (group, style) in enumerate(zip(losses, styles, strict=True)):
        averaged = [_averaged(points, far_apart) for points in group]
        curve = np.empty((0, 2))
        if averaged:
            every = max(1, min(map(len, averaged)) // 8)
            curve = _draw_line(axes, averaged, style, (number % every, every))
        curves.append(curve)

    # What blows up leaves the picture at its top, where the others can still be read.
    highest = max(points[:, 1].max() for points in good or logged)
    lowest = min(curve[:, 1].min() for curve in curves if len(curve))
    top = highest * 1.5
    axes.set_yscale('log')
    axes.set_ylim(lowest / 1.15, top)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_formatter(NullFormatter())
    if far_apart:
        axes.set_xscale('log')
    else:
        axes.set_xlim(0, max(points[-1, 0] for points in logged) * 1.02)
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.grid(color='0.9')
    for curve, bad in zip(curves, stopped, strict=True):
        if bad and len(curve):
            update, loss = curve[-1]
            axes.plot(update, min(loss, top), clip_on=False, zorder=5, **CROSS)


def _finite_losses(run: Run) -> np.ndarray:
    """Updates and losses that a logarithmic axis can show, of shape (points, 2)."""
    points = [
        (logged.update, logged.loss)
        for logged in run.updates
        if logged.loss is not None and math.isfinite(logged.loss) and logged.loss > 0
    ]
    return np.array(points, dtype=float).reshape(-1, 2)


def _averaged(points: np.ndarray, far_apart: bool) -> np.ndarray:
    """Means over stretches of equal length on the axis, where there are many points."""
    if len(points) <= MOST_POINTS:
        return points
    spaced = np.geomspace if far_apart else np.linspace
    edges = spaced(points[0, 0], points[-1, 0], MOST_POINTS + 1)[1:-1]
    stretch = np.searchsorted(edges, points[:, 0])
    return np.array([points[stretch == number].mean(axis=0) for number in np.unique(stretch)])
