"""Measure time and memory of an optimizer's step, ours beside other packages'.

    pip install --no-deps timm==1.0.31 pytorch-optimizer==4.1.0 mmpretrain==1.2.0
    python tools/benchmark_optimizers.py [CONFIG] [--rounds N] [--only NAME ...] [--device cpu|cuda]
        [--markdown FILE] [--json FILE] [--plot FILE.png]

Each optimizer steps on parameters of its own, of the shapes and in the groups that the config's
model and recipe give, from the same random weights and gradients; nothing is trained or downloaded.
--no-deps, since only their optimizers are imported. What is not installed is left out. NVIDIA's
Apex takes part on a GPU; README.md says how it is installed. The number of threads is PyTorch's own
choice, or OMP_NUM_THREADS.

A round copies a large buffer once, to learn what the memory does at that time, and steps every
optimizer once; who comes first changes from round to round. Before a step the gradients are written
anew, as a backward pass does, because some optimizers change them; that is not timed. A ratio is
the median of the ratios within the rounds. For the share of Python, each optimizer also steps on as
many tensors of one element, and the calls of PyTorch in that step that compute anything are made
once more by themselves; an optimizer that cuts large tensors into blocks spends more than so.
Nothing else should run meanwhile: where threads have to wait for a core, no figure means anything.

Peak memory is what a step needs above parameters, gradients and the optimizer's state, with what
the optimizer keeps from one step to the next. All together take 7 GB for Mask R-CNN R50.
"""

import argparse
import gc
import shlex
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from time import perf_counter

import torch
from benchmark_peers import ENTRIES, Entry, Unavailable, versions
from benchmark_plot import draw
from benchmark_report import Report, Result, as_json, as_markdown, machine, targets
from benchmark_step import Contestant, Group, Problem, kernel_launches, recipe_groups
from make_shapes import positive
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.logging import MMLogger
from tqdm import tqdm

from mmdet_largebatch import SettingError
from mmdet_largebatch.cli import one_line_errors

CONFIG = 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'
UNTIMED = 2  # rounds
# Bytes of a buffer; source and target together are more than a cache holds.
COPIED = dict(cpu=1 << 28, cuda=1 << 30)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure time and memory of an optimizer's step")
    parser.add_argument('config', nargs='?', default=CONFIG, help='config file')
    parser.add_argument('--rounds', type=positive, default=40, help='timed steps of each')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='the optimizers to compare')
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', choices=['cpu', 'cuda'], default=default)
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='write the table')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all times')
    parser.add_argument('--plot', type=Path, metavar='FILE.png', help='draw the times')
    parser.set_defaults(work_dir=None, cfg_options=None, launcher='none', local_rank=0)
    return parser.parse_args()


def choose(only: list[str] | None, device: str) -> tuple[dict[Entry, type], dict[str, str]]:
    """Import the optimizers that take part.

    Args:
        only (list[str], optional): Their names; None for all.
        device (str): ``'cpu'`` or ``'cuda'``.

    Returns:
        tuple[dict[Entry, type], dict[str, str]]: Their classes; and the names of those that could
        not be imported, with the reasons.

    Raises:
        SettingError: If a name is unknown, the device is not there, or none is left.
    """
    names = [entry.name for entry in ENTRIES]
    for name in only or []:
        if name not in names:
            raise SettingError(f'--only {name}: unknown. Must be of {", ".join(names)}.')
    if device == 'cuda' and not torch.cuda.is_available():
        raise SettingError('--device cuda: no GPU is visible. Must be cpu here.')
    chosen, left_out = {}, {}
    for entry in ENTRIES:
        if only is None or entry.name in only:
            try:
                chosen[entry] = entry.load(device)
            except Unavailable as reason:
                left_out[entry.name] = str(reason)
    if not chosen:
        reasons = ', '.join(f'{name} ({reason})' for name, reason in left_out.items())
        raise SettingError(f'--only leaves none to measure: {reasons}. Must have one.')
    return chosen, left_out


def measure(
    groups: list[Group], chosen: dict[Entry, type], device: str, rounds: int, report: Report
) -> None:
    """Measure memory, then time.

    Args:
        groups (list[Group]): The parameter groups.
        chosen (dict[Entry, type]): The optimizers.
        device (str): ``'cpu'`` or ``'cuda'``.
        rounds (int): Timed steps of each.
        report (Report): Takes the results.
    """
    problem = Problem(groups, device)
    small = Problem([group.of_one_element() for group in groups], device)
    sides = []
    for entry, kind in tqdm(chosen.items(), 'memory', ncols=80):
        contestant, reduced = (Contestant(p, kind, entry.options) for p in (problem, small))
        reduced.prepare(device)
        result = Result(entry, contestant.prepare(device))
        if device == 'cuda':
            contestant.write_gradients()
            result.kernels = kernel_launches(contestant.optimizer.step)
        report.results.append(result)
        sides.append((contestant, reduced, result))
    gc.collect()
    gc.disable()
    try:
        time_rounds(sides, device, rounds, report.copied_bytes_a_second)
    finally:
        gc.enable()


def time_rounds(
    sides: list[tuple[Contestant, Contestant, Result]],
    device: str,
    rounds: int,
    copied_bytes_a_second: list[float],
) -> None:
    """Let all take turns.

    Args:
        sides (list[tuple[Contestant, Contestant, Result]]): Optimizers on the parameters and on
            tensors of one element; the results take the seconds.
        device (str): ``'cpu'`` or ``'cuda'``.
        rounds (int): Timed rounds.
        copied_bytes_a_second (list[float]): Takes the bandwidth of copying, by round.
    """
    wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
    source = torch.ones(COPIED[device] // 4, device=device)
    target = torch.empty_like(source)
    for number in tqdm(range(-UNTIMED, rounds), 'rounds', ncols=80):
        wait()
        begin = perf_counter()
        target.copy_(source)
        wait()
        speed = 2 * source.nbytes / (perf_counter() - begin)
        if number >= 0:
            copied_bytes_a_second.append(speed)
        first = number % len(sides)
        for contestant, reduced, result in sides[first:] + sides[:first]:
            seconds, one_element = contestant.time(wait), reduced.time(wait)
            kernels = reduced.time_kernels(wait)
            if number >= 0:
                result.seconds.append(seconds)
                result.one_element_seconds.append(one_element)
                result.kernel_seconds.append(kernels)


def check_outputs(args: argparse.Namespace) -> None:
    """Refuse files that cannot be written, before anything is measured.

    Args:
        args (Namespace): The parsed ``markdown``, ``json`` and ``plot``.

    Raises:
        SettingError: At the first such file.
    """
    for name in ('markdown', 'json', 'plot'):
        path = getattr(args, name)
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix='.writable'):
                pass
        except OSError as error:
            raise SettingError(f'--{name} {path}: cannot be written ({error}).') from error
    formats = Figure().canvas.get_supported_filetypes()
    if args.plot and args.plot.suffix[1:] not in formats:
        raise SettingError(f'--plot {args.plot}: must end in one of .{", .".join(formats)}.')


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Measure, print and write."""
    check_outputs(args)
    chosen, left_out = choose(args.only, args.device)
    # Libraries print to where the table alone belongs.
    with redirect_stdout(sys.stderr):
        MMLogger.get_current_instance().setLevel('WARNING')
        groups = recipe_groups(cfg)
        sizes = [shape.numel() for group in groups for shape in group.shapes]
        packages = dict(torch=torch.__version__) | versions(list(chosen))
        about = dict(
            command=f'`python tools/benchmark_optimizers.py {shlex.join(sys.argv[1:])}`',
            config=f'`{args.config}`, {len(groups)} parameter groups',
            machine=machine(args.device),
            packages=', '.join(f'{name} {number}' for name, number in packages.items()),
        )
        report = Report(about, len(sizes), sum(sizes), max(sizes), left_out)
        measure(groups, chosen, args.device, args.rounds, report)
    print(as_markdown(report), '', *targets(report), sep='\n')
    if args.markdown:
        args.markdown.write_text(as_markdown(report) + '\n')
    if args.json:
        args.json.write_text(as_json(report) + '\n')
    if args.plot:
        title = f'{Path(args.config).stem}\n{about["machine"]}'
        draw(report, title).savefig(args.plot)


if __name__ == '__main__':
    main()
