"""Measure time and memory of an optimizer's step, ours beside other packages'.

    pip install --no-deps timm==1.0.31 pytorch-optimizer==4.1.0 mmpretrain==1.2.0
    python tools/benchmarks/optimizers.py [CONFIG] [--rounds N] [--only NAME ...]
        [--device cpu|cuda] [--json FILE.json] [--plot FILE.png]

Each optimizer steps on parameters of its own, of the shapes and in the groups of the config's
model and recipe, from the same random weights and gradients; nothing is trained or downloaded.
Packages that are not installed are left out (--no-deps, since only their optimizers are imported);
NVIDIA's Apex takes part on a GPU. OMP_NUM_THREADS sets the number of threads.

A round copies a large buffer once, to measure the memory's bandwidth at that time, and steps every
optimizer once; the order rotates from round to round. Before a step the gradients are written
anew, as a backward pass does, because some optimizers change them; that is not timed. A ratio is
the median of the ratios within the rounds. For the share of Python, each optimizer also steps on as
many tensors of one element, and the calls of PyTorch in that step that compute anything are
repeated by themselves. Nothing else should run meanwhile. Mask R-CNN R50 takes 7 GB in all.
"""

import argparse
import gc
import json
import shlex
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from peers import ENTRIES, Entry, Unavailable, versions
from report import Report, as_markdown, draw, machine
from step import (
    Contestant,
    Problem,
    host_syncs,
    kernel_launches,
    of_one_element,
    recipe_groups,
)
from torch.utils.benchmark import timer
from tqdm import tqdm

from mmdet_largebatch.checks import check
from mmdet_largebatch.cli import check_output, one_line_errors

CONFIG = 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'
UNTIMED = 2  # rounds
# Bytes of a buffer; source and target together are more than a cache holds.
COPIED = dict(cpu=1 << 28, cuda=1 << 30)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Measure time and memory of an optimizer's step")
    parser.add_argument('config', nargs='?', default=CONFIG, help='config file')
    parser.add_argument('--rounds', type=int, default=40, help='timed steps of each')
    parser.add_argument('--only', nargs='+', metavar='NAME', help='the optimizers to compare')
    default = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', choices=['cpu', 'cuda'], default=default)
    parser.add_argument('--json', type=Path, metavar='FILE.json', help='write all times')
    parser.add_argument('--plot', type=Path, metavar='FILE.png', help='draw the times')
    parser.set_defaults(work_dir=None, cfg_options=None, launcher='none', local_rank=0)
    return parser.parse_args()


def choose(only: list[str] | None, device: str) -> tuple[dict[Entry, type], dict[str, str]]:
    """Import the optimizers that take part; return also the reasons why others do not."""
    names = [entry.name for entry in ENTRIES]
    for name in only or []:
        check(name in names, '--only', name, f'one of {", ".join(names)}')
    check(device == 'cpu' or torch.cuda.is_available(), '--device', device, 'cpu without a GPU')
    chosen, left_out = {}, {}
    for entry in ENTRIES:
        if only is None or entry.name in only:
            try:
                chosen[entry] = entry.load(device)
            except Unavailable as reason:
                left_out[entry.name] = str(reason)
    check(bool(chosen), '--only', only, f'available: {left_out}')
    return chosen, left_out


def measure(report: Report, groups: list, chosen: dict[Entry, type], args) -> None:
    """Measure memory, then time, one optimizer after the other in every round."""
    device, sides = args.device, []
    problem = Problem(groups, device)
    small = Problem(list(map(of_one_element, groups)), device)
    for entry, kind in tqdm(chosen.items(), 'memory', ncols=80):
        full, reduced = (Contestant(p, kind, entry.options) for p in (problem, small))
        result = asdict(entry) | dict(ours=entry.ours, peak_bytes=full.peak_bytes)
        if device == 'cuda':
            full.write_gradients()
            result['kernels'] = kernel_launches(full.optimizer.step)
            full.write_gradients()
            result['host_syncs'] = host_syncs(full.optimizer.step)
        timed = dict(seconds=full.time, one_element_seconds=reduced.time)
        timed['kernel_seconds'] = reduced.time_kernels
        report['results'][entry.name] = result | {name: [] for name in timed}
        sides.append((report['results'][entry.name], timed))
    source = torch.ones(COPIED[device] // 4, device=device)
    target = torch.empty_like(source)
    gc.collect()
    gc.disable()
    for number in tqdm(range(-UNTIMED, args.rounds), 'rounds', ncols=80):
        begin = timer()
        target.copy_(source)
        speed = 2 * source.nbytes / (timer() - begin)
        first = number % len(sides)
        measured = [
            (result[name], time())
            for result, timed in sides[first:] + sides[:first]
            for name, time in timed.items()
        ]
        if number >= 0:
            for values, value in [(report['copied_bytes_a_second'], speed), *measured]:
                values.append(value)
    gc.enable()


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Measure and print."""
    for name, endings in (('json', ['.json']), ('plot', ['.png', '.pdf', '.svg'])):
        if path := getattr(args, name):
            check_output(f'--{name}', path, endings)
    chosen, left_out = choose(args.only, args.device)
    # Libraries print to where the table alone belongs.
    with redirect_stdout(sys.stderr):
        MMLogger.get_current_instance().setLevel('WARNING')
        groups = recipe_groups(cfg)
        sizes = [shape.numel() for shapes, *_ in groups for shape in shapes]
        packages = dict(torch=torch.__version__) | versions(list(chosen))
        about = dict(
            command=f'`python tools/benchmarks/optimizers.py {shlex.join(sys.argv[1:])}`',
            config=f'`{args.config}`, {len(groups)} parameter groups',
            machine=machine(args.device),
            packages=', '.join(f'{name} {number}' for name, number in packages.items()),
        )
        report = dict(about=about, tensors=len(sizes), parameters=sum(sizes), largest=max(sizes))
        report |= dict(left_out=left_out, results={}, copied_bytes_a_second=[])
        measure(report, groups, chosen, args)
    print(as_markdown(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + '\n')
    if args.plot:
        draw(report, f'{Path(args.config).stem}\n{about["machine"]}').savefig(args.plot)


if __name__ == '__main__':
    main()
