"""Tabulate and draw branches."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results.plots import COLORS, DASHES, save
from .comparison import Compared, Curve, start_loss

# Blocks of images that a line of the picture is averaged over.
DRAWN_BLOCKS = 20


def as_frame(compared: Sequence[Compared], setting: str) -> pd.DataFrame:
    """Return branches as a data frame, one row each.

    Args:
        compared (Sequence[Compared]): Branches.
        setting (str): Setting in which they differ, ``'lr'`` or ``'global_batch'``.

    Returns:
        pd.DataFrame: Exact values.
    """
    rows = [
        dict(
            global_batch=one.curve.batch,
            lr=one.curve.lr,
            updates=len(one.curve.constant),
            decay_updates=one.curve.decayed,
            images=len(one.curve.losses) * one.curve.batch,
            loss=one.loss,
            difference=one.difference,
            standard_error=one.error,
            unpaired_standard_error=one.unpaired_error,
            status=status(one),
        )
        for one in compared
    ]
    first = dict(lr=['lr', 'global_batch'], global_batch=['global_batch', 'lr'])[setting]
    frame = pd.DataFrame(rows)
    return frame[[*first, *(name for name in frame if name not in first)]]


def status(one: Compared) -> str:
    """Return the status of a branch."""
    if one.diverged:
        return 'diverged'
    return 'done' if one.whole else f'dropped after {len(one.curve.constant)} updates'


def as_markdown(frame: pd.DataFrame) -> str:
    """Format branches as a Markdown table.

    Args:
        frame (pd.DataFrame): From :func:`as_frame`.

    Returns:
        str: Table.
    """
    shown = pd.DataFrame(
        {
            'LR': frame.lr.map('{:g}'.format),
            'global batch': frame.global_batch.map(str),
            'updates': [
                f'{updates} + {decay}' if decay else str(updates)
                for updates, decay in zip(frame.updates, frame.decay_updates, strict=True)
            ],
            'images': frame.images.map(str),
            'loss': frame.loss.map(_loss),
            'difference (standard error)': [
                '-' if not np.isfinite(one) else f'{one:+.4f} ({error:.4f})'
                for one, error in zip(frame.difference, frame.standard_error, strict=True)
            ],
            'status': frame.status,
        }
    )
    if frame.columns[0] == 'global_batch':
        shown.insert(0, 'global batch', shown.pop('global batch'))
    align = [*['right'] * (len(shown.columns) - 1), 'left']
    return f'{shown.to_markdown(index=False, disable_numparse=True, colalign=align)}\n'


def _loss(loss: float) -> str:
    return f'{loss:.4f}' if np.isfinite(loss) else '-'


def losses_frame(curves: Sequence[Curve], setting: str) -> pd.DataFrame:
    """Return the loss of each update of each branch."""
    frames = [
        pd.DataFrame(
            {
                setting: curve.value,
                'update': np.arange(1, len(curve.losses) + 1),
                'images': curve.images,
                'loss': curve.losses,
            }
        )
        for curve in curves
    ]
    return pd.concat(frames, ignore_index=True)


def write_branches(compared: Sequence[Compared], setting: str, folder: Path) -> str:
    """Write ``branches.csv``, ``losses.csv`` and ``branches.png``.

    Args:
        compared (Sequence[Compared]): Branches.
        setting (str): Setting in which they differ, ``'lr'`` or ``'global_batch'``.
        folder (Path): Folder to write to; created if missing.

    Returns:
        str: The Markdown table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frame = as_frame(compared, setting)
    frame.to_csv(folder / 'branches.csv', index=False)
    losses_frame([one.curve for one in compared], setting).to_csv(
        folder / 'losses.csv', index=False
    )
    save(branches_figure(compared, setting), folder / 'branches.png')
    return as_markdown(frame)


def branches_figure(compared: Sequence[Compared], setting: str) -> Figure:
    """Draw the loss by image of each branch, and its difference to the best branch.

    The band of a difference is one standard error on either side, from the updates of a block.

    Args:
        compared (Sequence[Compared]): Branches.
        setting (str): Setting in which they differ, ``'lr'`` or ``'global_batch'``.

    Returns:
        Figure: The figure.
    """
    figure = Figure(figsize=(9, 8), dpi=150, layout='constrained')
    above, below = figure.subplots(2, 1, sharex=True)
    images = max(one.curve.batch * len(one.curve.losses) for one in compared)
    edges = np.linspace(0, images, DRAWN_BLOCKS + 1)
    best = next((one.curve for one in compared if one.difference == 0), None)
    name = dict(lr='LR {:g}', global_batch='batch {:g}')[setting]
    for index, one in enumerate(compared):
        style = dict(
            color=COLORS[index % len(COLORS)],
            ls=DASHES[index % len(DASHES)],
            label=name.format(one.curve.value) + (': diverged' if one.diverged else ''),
        )
        _draw_loss(above, one.curve, edges, style)
        if best is not None and not one.curve.broken:
            # A dropped branch decayed where the best one had its full LR.
            curve = one.curve if one.whole else replace(one.curve, losses=one.curve.constant)
            _draw_difference(below, curve, best, edges, style)
    above.set(ylabel='loss')
    first = start_loss([one.curve for one in compared])
    lowest = [one.curve.losses.min() for one in compared if not one.curve.broken]
    low = min(lowest, default=np.nan)
    if low < first:
        # A branch that diverges would flatten all others.
        above.set_ylim(low - 0.05 * (first - low), first + 0.6 * (first - low))
    widths = [abs(one.difference) + 3 * one.error for one in compared]
    widest = max(filter(np.isfinite, widths), default=0)
    if widest:
        below.set_ylim(-1.5 * widest, 1.5 * widest)
    reference = 'a stable branch' if best is None else name.format(best.value)
    below.set(xlabel='images', ylabel=f'loss less that of {reference}')
    for axes in (above, below):
        axes.grid(color='0.9')
        if best is not None and best.decayed:
            axes.axvline(best.batch * len(best.constant), color='0.4', lw=1, ls=':')
    if best is not None and best.decayed:
        above.set_title('dotted: LR divided by 10', fontsize=10, loc='right')
    handles, texts = above.get_legend_handles_labels()
    place: dict[str, Any] = dict(loc='outside lower center', ncols=4, frameon=False)
    figure.legend(handles, texts, fontsize=10, handlelength=4, **place)
    return figure


def _draw_loss(axes: Axes, curve: Curve, edges: np.ndarray, style: dict) -> None:
    thin = dict(style, label=None, lw=0.5, alpha=0.35, ls='-')
    axes.plot(curve.images, curve.losses, **thin)
    middle, means, _ = _blocks(curve.images, curve.batch, curve.losses, edges)
    axes.plot(middle, means, lw=1.8, **style)


def _draw_difference(axes: Axes, curve: Curve, best: Curve, edges: np.ndarray, style: dict) -> None:
    if curve.batch == best.batch:
        shared = min(len(curve.losses), len(best.losses))
        differences = curve.losses[:shared] - best.losses[:shared]
        middle, means, errors = _blocks(curve.images[:shared], curve.batch, differences, edges)
    else:
        middle, own, own_errors = _blocks(curve.images, curve.batch, curve.losses, edges)
        _, other, other_errors = _blocks(best.images, best.batch, best.losses, edges)
        shared = min(len(own), len(other))
        middle, means = middle[:shared], own[:shared] - other[:shared]
        errors = np.hypot(own_errors[:shared], other_errors[:shared])
    axes.plot(middle, means, lw=1.8, **style)
    axes.fill_between(middle, means - errors, means + errors, color=style['color'], alpha=0.18)


def _blocks(
    images: np.ndarray, batch: int, values: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the middle, the mean and the standard error of each block that has updates."""
    block = pd.Series(np.digitize(images - batch / 2, edges) - 1)
    grouped = pd.Series(values).groupby(block)
    middle = (edges[:-1] + edges[1:])[grouped.mean().index] / 2
    return middle, grouped.mean().to_numpy(), grouped.sem().fillna(0).to_numpy()
