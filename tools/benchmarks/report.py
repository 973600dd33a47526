"""The results of optimizers.py as a table and as a picture."""

import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

LEGEND = """\
`x timm's`: the time beside that of timm's optimizer of the kind, with the clip or without it alike.
`x their time`: beside the time of the least bytes at the bandwidth of copying; it may be below 1,
since copying also fetches the memory that it overwrites. `peak memory`: above parameters, gradients
and state, with what the optimizer keeps from step to step. `Python`: a step's time on as many
tensors of one element, without PyTorch's kernels in it. Ratios are medians within rounds."""
# Blue and orange of Okabe and Ito's palette, which the colour-blind can tell apart.
OURS, PEER = '#0072B2', '#E69F00'

# All that was measured: `about` (lines to print), `tensors`, `parameters` and `largest` (elements),
# `left_out` (reasons by name), `copied_bytes_a_second` (by round), and `results` by name: the
# fields of an Entry, `peak_bytes`, on a GPU `kernels` and `host_syncs`, and by round `seconds`,
# `one_element_seconds` and `kernel_seconds`.
Report = dict[str, Any]


def times_peer(report: Report, name: str) -> float | None:
    """Return a step's time as a multiple of the peer's, the median over rounds."""
    result = report['results'][name]
    peer = report['results'].get(result['beside'])
    return peer and float(np.median(np.divide(result['seconds'], peer['seconds'])))


def bound(report: Report, name: str) -> np.ndarray:
    """Return the seconds, by round, that the least bytes take at the bandwidth of copying."""
    least = report['results'][name]['least_bytes'] * report['parameters']
    return least / np.array(report['copied_bytes_a_second'])


def machine(device: str) -> str:
    """Return processor, cores that this process may use, threads, and the GPU if that computes."""
    info = Path('/proc/cpuinfo')
    found = re.search(r'model name\s*: (.*)', info.read_text() if info.is_file() else '')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    model = found[1] if found else platform.machine()
    text = f'{model}, cores: {cores}, threads: {torch.get_num_threads()}'
    return f'{torch.cuda.get_device_name()}; {text}' if device == 'cuda' else text


def short(x: float) -> str:
    """Write a number with four digits, or more where these stand before the point."""
    return f'{x:.4g}' if x < 1000 else f'{x:.0f}'


def _row(report: Report, name: str) -> dict[str, str]:
    result = report['results'][name]
    low, median, high = np.quantile(result['seconds'], (0.25, 0.5, 0.75))
    ratio = times_peer(report, name)
    outside = np.subtract(result['one_element_seconds'], result['kernel_seconds'])
    row = {
        'optimizer': f'**{name}**' if result['ours'] else name,
        'step, ms': short(median * 1e3),
        'quartiles': f'{short(low * 1e3)} to {short(high * 1e3)}',
        "x timm's": '' if ratio is None else f'{ratio:.3f}',
        'least bytes a parameter': str(result['least_bytes']),
        'x their time': f'{np.median(result["seconds"] / bound(report, name)):.3f}',
        'peak memory, x largest tensor': f'{result["peak_bytes"] / (4 * report["largest"]):.3f}',
        'Python, %': f'{100 * np.median(outside / result["seconds"]):.1f}',
    }
    if 'kernels' in result:
        row['kernel launches'] = str(result['kernels'])
        row['waits for the GPU'] = str(result['host_syncs'])
    return row


def as_markdown(report: Report) -> str:
    """Return the table and what it was measured on."""
    rows = [_row(report, name) for name in report['results']]
    cells = [rows[0], ['---'] * len(rows[0]), *(row.values() for row in rows)]
    lines = [f'| {" | ".join(line)} |' for line in cells]
    low, median, high = np.quantile(report['copied_bytes_a_second'], (0.25, 0.5, 0.75)) / 1e9
    about = report['about'] | {
        'parameters': f'{report["parameters"]:,} in {report["tensors"]} tensors, fp32; the largest '
        f'has {report["largest"]:,} ({4 * report["largest"] / 1e6:.2f} MB)',
        'copying': f'{median:.4g} GB/s read and written (quartiles {low:.4g} to {high:.4g}), '
        f'in {len(report["copied_bytes_a_second"])} rounds',
    }
    if report['left_out']:
        about['left out'] = ', '.join(f'{k} ({v})' for k, v in report['left_out'].items())
    return '\n'.join([*(f'- {k}: {v}' for k, v in about.items()), '', *lines, '', LEGEND])


def draw(report: Report, title: str) -> Figure:
    """Draw the times as bars with their quartiles, and the time of the least bytes."""
    results = report['results']
    figure = Figure(figsize=(9, 1.6 + 0.42 * len(results)), dpi=150, layout='constrained')
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    axes = figure.add_subplot()
    seconds = [result['seconds'] for result in results.values()]
    low, median, high = 1e3 * np.quantile(seconds, (0.25, 0.5, 0.75), axis=1)
    places = np.arange(len(results))
    colors = [OURS if result['ours'] else PEER for result in results.values()]
    whiskers = dict(ecolor='0.2', capsize=3, lw=1)
    axes.barh(places, median, xerr=(median - low, high - median), color=colors, error_kw=whiskers)
    bounds = [1e3 * np.median(bound(report, name)) for name in results]
    diamond = dict(ls='', marker='D', ms=5, mfc='white', mec='black')
    axes.plot(bounds, places, **diamond)
    labels = [f'{name}  {short(value)} ms' for name, value in zip(results, median, strict=True)]
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.03 * max(*high, *bounds))
    axes.set_xlabel('time of a step, ms (median and quartiles)')
    axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.legend(
        [Patch(color=OURS), Patch(color=PEER), Line2D([], [], **diamond)],
        ['this project', 'other packages', 'least bytes at the bandwidth of copying'],
        loc='outside lower center',
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return figure
