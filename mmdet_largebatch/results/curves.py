"""Draw AP by epoch and loss by update, one line for each run."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from .plots import labels, run_styles, save
from .run import Run
from .table import group_by_seed

Style = dict[str, Any]
# Points of a loss curve. More are averaged, or crossing lines would hide each other.
MOST_POINTS = 60
# The axis of updates is logarithmic if one run has this many times the updates of another.
FAR_APART = 4
WIDTH = 9  # Inches.
CROSS: Style = dict(color='black', ls='none', marker='x', ms=9, mew=2.2)


def draw_curves(runs: Sequence[Run], path: str | Path, group_seeds: bool = False) -> None:
    """Draw box AP by epoch, mask AP if logged, and the loss by update.

    A cross ends the loss of a run that diverged or became NaN.

    Args:
        runs (Sequence[Run]): Runs, at least one.
        path (str or Path): Picture to write; the suffix sets the format.
        group_seeds (bool): Merge finished runs that differ only in the seed into one line: their
            mean, in a band from the lowest to the highest value. Defaults to False.

    Raises:
        SettingError: If the picture cannot be written.
    """
    save(curves_figure(runs, group_seeds), path)


def curves_figure(runs: Sequence[Run], group_seeds: bool = False) -> Figure:
    """Return the figure of :func:`draw_curves`."""
    groups = _groups(runs) if group_seeds else [[run] for run in runs]
    # The label of several seeds shows no seed.
    runs = [replace(group[0], seed=None) if len(group) > 1 else group[0] for group in groups]
    texts, styles = labels(runs), run_styles(runs)
    # At 10 points a letter is 6.6 points wide; the line and the gaps of a column take 75.
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
    place: dict[str, Any] = dict(loc='outside lower center', ncols=columns, frameon=False)
    figure.legend(handles=handles, fontsize=size, handlelength=4.5, **place)
    return figure


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Group finished runs by seed; an unfinished run stays alone."""
    groups: list[list[Run]] = []
    for group in group_by_seed(runs):
        done = [runs[index] for index in group if runs[index].status == 'done']
        rest = [[runs[index]] for index in group if runs[index].status != 'done']
        groups += [done] * bool(done) + rest
    return groups


def _draw_ap(axes: Axes, groups: list[list[Run]], styles: list[Style], key: str, name: str) -> None:
    axes.set(xlabel='epoch', ylabel=f'{name} (COCO mAP)')
    curves = [[_ap_curve(run, key) for run in group] for group in groups]
    if not any(all(map(len, group)) for group in curves):
        _say(axes, f'no {name} was logged')
        return
    for group, style in zip(curves, styles, strict=True):
        if all(map(len, group)):
            _draw_line(axes, group, style)
    axes.set_xlim(0, max(run.epochs for group in groups for run in group) * 1.03)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color='0.9')


def _say(axes: Axes, text: str) -> None:
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center')


def _ap_curve(run: Run, key: str) -> pd.Series:
    """Return the AP by epoch."""
    aps = {one.epoch: getattr(one, key) for one in run.evaluations}
    curve = pd.Series(aps, dtype=float).dropna()
    if len(curve) and run.status == 'done':
        # A run that was cut ends within an epoch.
        curve = curve.rename({curve.index[-1]: min(curve.index[-1], run.epochs_trained)})
    return curve


def _draw_line(axes: Axes, curves: list[pd.Series], style: Style, **more: Any) -> pd.Series:
    """Draw the mean of the curves in a band of their range, and return the mean."""
    points = pd.concat(curves).groupby(level=0).agg(['mean', 'min', 'max', 'count'])
    points = points[points['count'] == len(curves)]
    axes.plot(points.index, points['mean'], lw=1.5, ms=5, **more, **style)
    if len(curves) > 1:
        band: dict[str, Any] = dict(color=style['color'], alpha=0.2, lw=0)
        axes.fill_between(points.index, points['min'], points['max'], **band)
    return points['mean']


def _draw_losses(axes: Axes, groups: list[list[Run]], styles: list[Style]) -> None:
    axes.set(xlabel='optimizer update', ylabel='training loss')
    losses = [_common([_loss_curve(run) for run in group]) for group in groups]
    stopped = [group[0].status in ('diverged', 'nan') for group in groups]
    logged = [curve for group in losses for curve in group]
    if not logged:
        _say(axes, 'no loss was logged')
        return
    good = [x for group, bad in zip(losses, stopped, strict=True) if not bad for x in group]
    ends = [curve.index[-1] for curve in good or logged]
    far_apart = max(ends) > FAR_APART * min(ends)
    means = []
    for index, (group, style) in enumerate(zip(losses, styles, strict=True)):
        averaged = [_averaged(curve, far_apart) for curve in group]
        if averaged:
            every = max(1, min(map(len, averaged)) // 8)
            means.append(_draw_line(axes, averaged, style, markevery=(index % every, every)))
        else:
            means.append(pd.Series(dtype=float))

    # A loss that blows up is clipped at the top, so that the others can still be read.
    top = max(curve.max() for curve in good or logged) * 1.5
    axes.set_yscale('log')
    axes.set_ylim(min(mean.min() for mean in means if len(mean)) / 1.15, top)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_formatter(NullFormatter())
    if far_apart:
        axes.set_xscale('log')
    else:
        axes.set_xlim(0, max(curve.index[-1] for curve in logged) * 1.02)
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.grid(color='0.9')
    for mean, bad in zip(means, stopped, strict=True):
        if bad and len(mean):
            axes.plot(mean.index[-1], min(mean.iloc[-1], top), clip_on=False, zorder=5, **CROSS)


def _loss_curve(run: Run) -> pd.Series:
    """Return the losses that a logarithmic axis can show, by update."""
    curve = pd.Series({one.update: one.loss for one in run.updates}, dtype=float)
    return curve[(curve > 0) & np.isfinite(curve)]


def _common(curves: list[pd.Series]) -> list[pd.Series]:
    """Reduce curves to the updates that all have, without curves that have no update."""
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return []
    shared = reduce(pd.Index.intersection, [curve.index for curve in curves])
    return [curve[shared] for curve in curves] if len(shared) else []


def _averaged(curve: pd.Series, far_apart: bool) -> pd.Series:
    """Average a long curve over intervals that are equal on the axis."""
    if len(curve) <= MOST_POINTS:
        return curve
    spaced = np.geomspace if far_apart else np.linspace
    edges = spaced(curve.index[0], curve.index[-1], MOST_POINTS + 1)[1:-1]
    interval = np.searchsorted(edges, curve.index)
    updates = curve.index.to_series().groupby(interval).mean()
    return pd.Series(curve.groupby(interval).mean().values, index=updates.values)
