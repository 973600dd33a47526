"""Draw the hours of a training."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..results.plots import COLORS, DASHES
from .hours import Hours
from .hours_report import digits

# Of more rows, every second label is below its point.
MANY = 5


def draw_hours(hours: Hours, title: str) -> Figure:
    """Draw time and GPU-hours over the number of GPUs.

    A dashed line has the efficiency of the fewest GPUs on any number of them.

    Args:
        hours (Hours): The hours.
        title (str): Title, such as the name of the config.

    Returns:
        Figure: For ``savefig``. It opens no window and changes no global setting of matplotlib.
    """
    gpus = np.array([row.gpus for row in hours.rows])
    time = np.array([row.total_seconds / 3600 for row in hours.rows])
    product = np.array([row.gpu_hours for row in hours.rows])
    constant = np.full(len(gpus), product[0])
    figure = Figure(figsize=(9, 4.2), dpi=150, layout='constrained')
    left, right = figure.subplots(1, 2)
    few = f'efficiency of {gpus[0]} GPU{"s" if gpus[0] > 1 else ""}'
    for axes, values, perfect in ((left, time, constant / gpus), (right, product, constant)):
        axes.plot(gpus, values, color=COLORS[0], marker='o', ms=5, lw=1.8, label='this training')
        axes.plot(gpus, perfect, color=COLORS[1], ls=DASHES[1], lw=1.4, label=few)
        for index, (number, value) in enumerate(zip(gpus, values, strict=True)):
            offset = -15 if index % 2 and len(gpus) > MANY else 7
            place = dict(xytext=(0, offset), textcoords='offset points', ha='center', fontsize=8)
            axes.annotate(digits(value), (number, value), **place)
        axes.set(xlabel='GPUs', xscale='log', xlim=(gpus.min() / 1.4, gpus.max() * 1.4))
        axes.xaxis.set_major_locator(FixedLocator(list(gpus)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter('{x:.0f}')
        axes.grid(color='0.9')
    left.set_ylabel('total time, hours')
    _logarithmic(left, np.concatenate([time, constant / gpus]))
    left.legend(fontsize=8, frameon=False, loc='upper right')
    right.set_ylabel('GPU-hours')
    right.set_ylim(0, 1.25 * product.max())
    right.legend(fontsize=8, frameon=False, loc='lower right')
    batches = {row.global_batch for row in hours.rows}
    batch = f', global batch {batches.pop()}' if len(batches) == 1 else ''
    figure.suptitle(f'{title}{batch}', fontsize=10)
    return figure


def _logarithmic(axes: Axes, values: np.ndarray) -> None:
    """Make the y axis logarithmic, with ticks at 1, 2 and 5 times powers of ten."""
    low, high = values.min() / 1.5, values.max() * 2
    axes.set_yscale('log')
    axes.set_ylim(low, high)
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = np.outer(powers, [1, 2, 5]).ravel()
    axes.yaxis.set_major_locator(FixedLocator(ticks[(low <= ticks) & (ticks <= high)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
