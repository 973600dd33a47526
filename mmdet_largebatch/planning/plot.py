"""Draw the LR schedule."""

from math import sqrt

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .plan import Decay, Plan

LINE, MARKS, WARMUP = '#1f4e79', '#a93226', '#f7dc9a'
# More decays than this are marked by lines alone.
MOST_LABELS = 6


def draw_lr(plan: Plan, title: str) -> Figure:
    """Draw the LR over updates and epochs, with warmup and decays marked.

    The axis of the LR is logarithmic. An LR of 0 is left out.

    Args:
        plan (Plan): The plan.
        title (str): Title, such as the name of the config.

    Returns:
        Figure: For ``savefig``. It opens no window and changes no global setting of matplotlib.
    """
    figure = Figure(figsize=(8, 4.5), dpi=150, layout='constrained')
    axes = figure.add_subplot()
    positive = np.where(plan.lrs > 0, plan.lrs, np.nan)
    axes.step(np.arange(plan.updates), positive, where='post', color=LINE, lw=1.8)
    axes.set_yscale('log')
    axes.set_xlim(0, plan.updates)
    axes.set_ylim(np.nanmin(positive) / 2, np.nanmax(positive) * 3)
    axes.set_xlabel('update')
    axes.set_ylabel('learning rate')
    axes.xaxis.set_major_formatter('{x:,.0f}')
    axes.grid(axis='y', color='0.9')
    epochs = axes.secondary_xaxis(
        'top',
        functions=(
            lambda update: np.divide(update, plan.updates_per_epoch),
            lambda epoch: np.multiply(epoch, plan.updates_per_epoch),
        ),
    )
    epochs.set_xlabel('epoch')
    epochs.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f'{title}\nglobal batch {plan.global_batch}, {plan.optimizer}', fontsize=10)

    highest = plan.lrs.max()
    _label(axes, plan, int(np.argmax(plan.lrs)), highest * 1.25, f'{highest:.4g}', 'bottom')
    if plan.warmup_updates:
        _mark_warmup(axes, plan)
    for decay in plan.decays:
        axes.axvline(decay.update, color=MARKS, lw=0.8, ls='--')
        if len(plan.decays) <= MOST_LABELS:
            _mark_decay(axes, plan, decay)
    return figure


def _mark_warmup(axes: Axes, plan: Plan) -> None:
    end = min(plan.warmup_updates, plan.updates)
    axes.axvspan(0, end, color=WARMUP, lw=0)
    text = f'warmup\n{plan.warmup_updates:,} updates\n{plan.warmup_epochs:.3g} epochs'
    lowest, highest = axes.get_ylim()
    _label(axes, plan, end, lowest * (highest / lowest) ** 0.03, text, 'bottom')


def _mark_decay(axes: Axes, plan: Plan, decay: Decay) -> None:
    text = f'{decay.lr:.4g}\nepoch {decay.epoch:.4g}\nupdate {decay.update:,}'
    middle = sqrt(max(decay.lr, axes.get_ylim()[0]) * plan.lrs[decay.update - 1])
    _label(axes, plan, decay.update, middle, text, 'center', MARKS)


def _label(
    axes: Axes, plan: Plan, update: int, lr: float, text: str, va: str, color: str = '0.15'
) -> None:
    """Write a label beside an update, on the side with more room."""
    side = 1 if update < plan.updates / 2 else -1
    axes.annotate(
        text,
        (update, lr),
        xytext=(5 * side, 0),
        textcoords='offset points',
        ha='left' if side > 0 else 'right',
        va=va,
        fontsize=8,
        color=color,
        bbox=dict(facecolor='white', edgecolor='none', alpha=0.8, pad=1),
    )
