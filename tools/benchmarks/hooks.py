"""Measure what each hook costs an update, and what this project's hooks cost together.

    python tools/benchmarks/hooks.py [--pairs N] [--images N] [--shapes DIR]

Two runners train the recipe on shapes with LAMB in one process: one with this project's hooks, with
TrustRatioHook, and one without. They take turns from update to update, on the same 2 micro-batches
in memory; which goes first alternates. A GPU is waited for before and after an update. The ratio
has also what the reads of the hooks cost: PyTorch cannot queue work across them.

Then each hook is timed by itself, in as many updates of the first runner, with a wait for the GPU
before and after. These are means over the updates, since some hooks work at intervals. Checkpoints,
which are saved at the end of an epoch, are not in them.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loop import Side
from mmengine.config import Config
from mmengine.hooks import Hook
from resume import recipe
from torch.utils.benchmark import timer

from mmdet_largebatch.cli import look_at_data, one_line_errors

ROOT = Path(__file__).resolve().parents[2]
LAMB = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
OURS = ('lr', 'checkpoint', 'preemption', 'divergence')
POINTS = ('before_train_iter', 'after_micro_batch', 'before_update', 'after_train_iter')
UNTIMED, MICRO_BATCHES = 4, 2


def config(images: int, shapes: Path, work_dir: Path, with_ours: bool) -> Config:
    """Return the recipe with this project's hooks, or without."""
    cfg = recipe(shapes, work_dir, 'with' if with_ours else 'without', LAMB)
    cfg.train_dataloader.batch_size = images
    cfg.train_cfg.update(max_epochs=1000, global_batch_size=images * MICRO_BATCHES)
    # So low that the weights, and with them the work of a step, do not change.
    cfg.optim_wrapper.optimizer.lr = 1e-12
    if with_ours:
        cfg.default_hooks.trust_ratio = dict(type='TrustRatioHook')
    else:
        cfg.default_hooks.update({name: None for name in OURS})
        cfg.default_hooks = {k: v for k, v in cfg.default_hooks.items() if v is not None}
        cfg.default_hooks.checkpoint = None  # MMEngine's own otherwise.
    return cfg


class Timed:
    """One of the two runners, its data in memory."""

    def __init__(self, cfg: Config, samples: list[dict], updates: int) -> None:
        self.side = Side(cfg, samples)
        self.side.load(list(islice(self.side.loop.sampler, MICRO_BATCHES)) * updates)

    def update(self) -> float:
        """Make an update; return its seconds."""
        loop = self.side.loop
        begin = timer()
        loop.run_iter(loop.iter, islice(self.side.data, MICRO_BATCHES))
        return timer() - begin


def time_hooks(hooks: list[Hook]) -> dict[Hook, dict[str, float]]:
    """Time every call of the hooks from now on; return the seconds by hook and point."""
    seconds: dict[Hook, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def timed(hook: Hook, point: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin = timer()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[hook][point] += timer() - begin

        return wrapper

    for hook in hooks:
        for point in POINTS:
            call = getattr(hook, point, None)
            if call is not None and getattr(type(hook), point) is not getattr(Hook, point, None):
                setattr(hook, point, timed(hook, point, call))
    return seconds


def is_ours(hook: Hook) -> bool:
    """Return True for a hook of this project."""
    return type(hook).__module__.startswith('mmdet_largebatch.')


def measure(pairs: int, images: int, shapes: Path, work_dir: Path) -> list[list[list]]:
    """Return the rows of both tables."""
    samples: list[dict] = []
    updates = UNTIMED + 2 * pairs
    sides = [Timed(config(images, shapes, work_dir, x), samples, updates) for x in (True, False)]
    seconds = np.zeros((UNTIMED + pairs, 2))
    for pair in range(UNTIMED + pairs):
        for kind in (0, 1) if pair % 2 else (1, 0):
            seconds[pair, kind] = sides[kind].update()
    with_ours, without = seconds[UNTIMED:].T
    low, middle, high = np.quantile(with_ours / without, (0.25, 0.5, 0.75))
    medians = np.median(seconds[UNTIMED:], axis=0)
    times = [f'{median * 1e3:.2f}' for median in medians[::-1]]
    whole = [pairs, *times, f'{middle:.4f} ({low:.4f} to {high:.4f})']

    hooks = sides[0].side.runner.hooks
    by_hook = time_hooks(hooks)
    for _ in range(pairs):
        sides[0].update()
    rows = []
    for hook in sorted(by_hook, key=lambda hook: (not is_ours(hook), -sum(by_hook[hook].values()))):
        mean = sum(by_hook[hook].values()) / pairs
        name = type(hook).__name__
        share = f'{100 * mean / medians[0]:.2f}'
        rows.append([f'**{name}**' if is_ours(hook) else name, f'{mean * 1e3:.3f}', share])
    return [[whole], rows]


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Measure what the hooks cost an update.')
    parser.add_argument('--pairs', type=int, default=100, help='updates timed of each runner')
    parser.add_argument('--images', type=int, default=8, help='images of a micro-batch')
    parser.add_argument('--shapes', type=Path, default=ROOT / 'data/shapes', help='the pictures')
    return parser.parse_args()


@one_line_errors(parse_args)
def main(args: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    heads = (
        ['pairs', 'without our hooks, ms', 'with them, ms', 'ratio (quartiles)'],
        ['hook (bold: ours)', 'ms an update', '% of an update'],
    )
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        look_at_data(recipe(args.shapes, Path(folder), 'check', LAMB), ['train'])
        tables = measure(args.pairs, args.images, args.shapes, Path(folder))
    for head, rows in zip(heads, tables, strict=True):
        lines = [head, ['---'] * len(head), *rows]
        print(*(f'| {" | ".join(map(str, line))} |' for line in lines), '', sep='\n', flush=True)


if __name__ == '__main__':
    main()
