"""What benchmark_optimizers.py has measured: as a table, as JSON, and beside targets."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from benchmark_peers import Entry

HEAD = (
    'optimizer',
    'step, ms',
    'quartiles',
    "x timm's",
    'least bytes a parameter',
    'x their time',
    'GB/s',
    'peak memory, MB',
    'x largest tensor',
    'Python, %',
)
LEGEND = """\
`x timm's`: the time beside that of timm's optimizer of the kind, with the clip or without it alike.
`x their time`: beside the time of the least bytes at the bandwidth of copying; it may be below 1,
since copying also fetches the memory that it overwrites. `GB/s`: the least bytes in the time of the
step. `peak memory`: above parameters, gradients and state. `Python`: what a step takes on as many
tensors of one element, without PyTorch's kernels in it. Ratios are medians of those within a
round."""


@dataclass
class Result:
    """What was measured of one optimizer.

    Args:
        entry (Entry): The optimizer.
        peak_bytes (int): Memory of a step above parameters, gradients and state.
        kernels (int, optional): Kernel launches of a step on a GPU.
        seconds (list[float]): Of its step, by round.
        one_element_seconds (list[float]): Of its step on tensors of one element, by round.
        kernel_seconds (list[float]): Of the kernels alone in that step, by round.
    """

    entry: Entry
    peak_bytes: int
    kernels: int | None = None
    seconds: list[float] = field(default_factory=list)
    one_element_seconds: list[float] = field(default_factory=list)
    kernel_seconds: list[float] = field(default_factory=list)

    @property
    def python(self) -> float:
        """The share of a step that is outside of kernels, the median over rounds."""
        outside = np.subtract(self.one_element_seconds, self.kernel_seconds)
        return float(np.median(outside / self.seconds))


@dataclass
class Report:
    """All that was measured.

    Args:
        about (dict[str, str]): Command line, machine and versions, to be printed.
        tensors (int): Number of parameter tensors.
        parameters (int): Number of their elements, fp32.
        largest (int): Elements of the largest tensor.
        left_out (dict[str, str]): Names of optimizers and why they could not take part.
        results (list[Result]): One an optimizer.
        copied_bytes_a_second (list[float]): Bytes read and written by copying, by round.
    """

    about: dict[str, str]
    tensors: int
    parameters: int
    largest: int
    left_out: dict[str, str]
    results: list[Result] = field(default_factory=list)
    copied_bytes_a_second: list[float] = field(default_factory=list)

    def find(self, name: str | None) -> Result | None:
        """The result of an optimizer.

        Args:
            name (str, optional): Its name.

        Returns:
            Result or None: None if it did not take part.
        """
        return next((result for result in self.results if result.entry.name == name), None)

    def beside(self, result: Result) -> float | None:
        """The time of a step as a multiple of the peer's.

        Args:
            result (Result): The optimizer's.

        Returns:
            float or None: The median over rounds, None without a peer.
        """
        peer = self.find(result.entry.beside)
        return peer and float(np.median(np.divide(result.seconds, peer.seconds)))

    def bound(self, result: Result) -> np.ndarray:
        """The time that the least bytes take at the bandwidth of copying.

        Args:
            result (Result): The optimizer's.

        Returns:
            np.ndarray: Seconds by round, shape (rounds,).
        """
        least = result.entry.least_bytes * self.parameters
        return least / np.array(self.copied_bytes_a_second)

    def times_bound(self, result: Result) -> float:
        """The time of a step as a multiple of the least, the median over rounds.

        Args:
            result (Result): The optimizer's.

        Returns:
            float: The multiple.
        """
        return float(np.median(result.seconds / self.bound(result)))

    def times_largest(self, result: Result) -> float:
        """The peak memory as a multiple of the largest tensor.

        Args:
            result (Result): The optimizer's.

        Returns:
            float: The multiple.
        """
        return result.peak_bytes / (4 * self.largest)


def machine(device: str) -> str:
    """What the figures depend on.

    Args:
        device (str): ``'cpu'`` or ``'cuda'``.

    Returns:
        str: Processor, cores that this process may use, threads, and the GPU if that computes.
    """
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    models = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    model = models[0] if models else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    text = f'{model}, cores: {cores}, threads: {torch.get_num_threads()}'
    return f'{torch.cuda.get_device_name()}; {text}' if device == 'cuda' else text


def short(x: float) -> str:
    """Write a number in four digits, in more only where they stand before the point.

    Args:
        x (float): The number, not negative.

    Returns:
        str: The digits.
    """
    return f'{x:.4g}' if x < 1000 else f'{x:.0f}'


def _row(report: Report, result: Result) -> list[str]:
    low, median, high = np.quantile(result.seconds, (0.25, 0.5, 0.75))
    ratio = report.beside(result)
    moved = result.entry.least_bytes * report.parameters
    row = [
        f'**{result.entry.name}**' if result.entry.ours else result.entry.name,
        short(median * 1e3),
        f'{short(low * 1e3)} to {short(high * 1e3)}',
        '' if ratio is None else f'{ratio:.3f}',
        str(result.entry.least_bytes),
        f'{report.times_bound(result):.3f}',
        short(moved / median / 1e9),
        f'{result.peak_bytes / 1e6:.2f}',
        f'{report.times_largest(result):.3f}',
        f'{100 * result.python:.1f}',
    ]
    return row if result.kernels is None else [*row, str(result.kernels)]


def as_markdown(report: Report) -> str:
    """The table with what it was measured on.

    Args:
        report (Report): The report.

    Returns:
        str: Markdown that is legible as it is.
    """
    rows = [_row(report, result) for result in report.results]
    head = [*HEAD, 'kernel launches'][: len(rows[0])]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        f'| {" | ".join(map(str.ljust, line, widths))} |'
        for line in (head, ['-' * width for width in widths], *rows)
    ]
    low, median, high = np.quantile(report.copied_bytes_a_second, (0.25, 0.5, 0.75)) / 1e9
    about = report.about | {
        'parameters': f'{report.parameters:,} in {report.tensors} tensors, fp32; the largest has '
        f'{report.largest:,} ({4 * report.largest / 1e6:.2f} MB)',
        'copying': f'{median:.4g} GB/s read and written (quartiles {low:.4g} to {high:.4g}), '
        f'in {len(report.copied_bytes_a_second)} rounds',
    }
    if report.left_out:
        about['left out'] = ', '.join(f'{k} ({v})' for k, v in report.left_out.items())
    return '\n'.join([*(f'- {k}: {v}' for k, v in about.items()), '', *lines, '', LEGEND])


def as_json(report: Report) -> str:
    """All raw figures.

    Args:
        report (Report): The report.

    Returns:
        str: One JSON object, times in seconds.
    """
    content = asdict(report)
    content['results'] = {r['entry'].pop('name'): r | r.pop('entry') for r in content['results']}
    return json.dumps(content, indent=1)


def targets(report: Report) -> list[str]:
    """Hold our optimizers against what they are meant to reach.

    Args:
        report (Report): The report.

    Returns:
        list[str]: A line a target.
    """
    lamb, lars = report.find('LAMB'), report.find('LARS')
    ours = [result for result in report.results if result.entry.ours]
    wanted = [
        ("LAMB with the clip, time beside timm's Lamb", lamb and report.beside(lamb), 0.40),
        ('LAMB with the clip, time beside its 44 bytes', lamb and report.times_bound(lamb), 1.5),
        ("LARS, time beside timm's Lars", lars and report.beside(lars), 0.60),
        *(
            (f'{r.entry.name}, peak memory beside the largest tensor', report.times_largest(r), 1.0)
            for r in ours
        ),
        *((f'{r.entry.name}, share outside of kernels', r.python, 0.05) for r in ours),
    ]
    lines = []
    for what, value, limit in wanted:
        verdict = 'not measured' if value is None else 'met' if value <= limit else 'not met'
        figure = '' if value is None else f'{value:.3f} '
        lines.append(f'target: {what}: {figure}(<= {limit:.2f}): {verdict}')
    return lines
