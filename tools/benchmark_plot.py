"""The picture of what benchmark_optimizers.py has measured."""

import numpy as np
from benchmark_report import Report, short
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

# Blue and orange of Okabe and Ito's palette, which are told apart also by the colour-blind.
OURS, PEER = '#0072B2', '#E69F00'


def draw(report: Report, title: str) -> Figure:
    """Draw the times as horizontal bars with their quartiles and the least that bytes take.

    Args:
        report (Report): The report.
        title (str): What stands above.

    Returns:
        Figure: For ``savefig``; no window and no global setting of matplotlib is touched.
    """
    results = report.results
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(results)), dpi=150, layout='constrained')
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    axes = figure.add_subplot()
    low, median, high = 1e3 * np.quantile([r.seconds for r in results], (0.25, 0.5, 0.75), axis=1)
    places = np.arange(len(results))
    colors = [OURS if result.entry.ours else PEER for result in results]
    whiskers = dict(ecolor='0.2', capsize=3, lw=1)
    axes.barh(places, median, xerr=(median - low, high - median), color=colors, error_kw=whiskers)
    bounds = [1e3 * np.median(report.bound(result)) for result in results]
    axes.plot(bounds, places, ls='', marker='D', ms=5, mfc='white', mec='black')
    names = [result.entry.name for result in results]
    labels = [f'{name}  {short(value)} ms' for name, value in zip(names, median, strict=True)]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.03 * max(*high, *bounds))
    axes.set_xlabel('time of a step, ms (median and quartiles)')
    axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(title, fontsize=10)
    diamond = Line2D([], [], ls='', marker='D', ms=5, mfc='white', mec='black')
    figure.legend(
        [Patch(color=OURS), Patch(color=PEER), diamond],
        ['this project', 'other packages', 'least bytes at the bandwidth of copying'],
        loc='outside lower center',
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return figure
