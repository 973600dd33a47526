"""Measure what `GlobalBatchTrainLoop` costs beside MMEngine's own train loops.

    python tools/benchmark_loop.py [--pairs N] [--shapes DIR] [--part update accumulate resume]

`update` times an update of one micro-batch against an iteration of `EpochBasedTrainLoop`;
`accumulate` an update of 8 micro-batches against 8 of its iterations with `accumulative_counts=8`.
Both loops stand in one process, each with its own runner, hooks, schedule and log, and take turns
from micro-batch to micro-batch, over the same ones with the same random draws, changing who goes
first. The pictures are in memory and one thread computes. What counts is the ratio within a pair,
of the time by the clock and of the processor's time, which other programs disturb less; that the
losses are the same shows that both did the same work.

`resume` times how long a run that goes on from update 900 of an epoch of 917 takes to its first
update, and counts the pictures that it reads, beside what MMEngine's loops do; then how long the
sampler takes to get there at COCO's size.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from benchmark_resume import at_loop_start, measure_resume, measure_sampler, recipe
from make_shapes import positive, write_split
from mmengine.config import Config
from mmengine.hub import get_config
from torch.utils.data import DataLoader

from mmdet_largebatch.cli import look_at_data, one_line_errors
from mmdet_largebatch.global_batch.seeding import MODEL, seed_generators

LOG_INTERVAL, UNTIMED = 8, 5  # updates
# Micro-batches of an update, the ratio that is allowed, and pairs where --pairs does not say.
PAIRED = dict(update=(1, 1.02, 150), accumulate=(8, 1.01, 30))
PAIRS_HEAD = (
    'part|pairs|EpochBasedTrainLoop, ms|GlobalBatchTrainLoop, ms|ratio (quartiles)|'
    "ratio of the processor's time|required|losses differ by"
)
RESUME_HEAD = (
    'resumed at update 900 of 917|data workers|first update, s|pictures read|'
    'first update on new pictures, s|pictures read'
)
SAMPLER_HEAD = 'sampler on 117,266 pictures, ranks|begins with update|s'


def clocks() -> np.ndarray:
    """Seconds by the clock and of this process's computing, shape (2,)."""
    return np.array([perf_counter(), process_time()])


class Side:
    """One of the two loops, standing before its first iteration.

    Args:
        cfg (Config): Config of its runner.
        samples (list[dict]): The dataset, loaded; filled in if it is empty.
    """

    def __init__(self, cfg: Config, samples: list[dict]) -> None:
        self.runner = at_loop_start(cfg)
        self.loop = self.runner.train_loop
        self.dataset = self.loop.dataloader.dataset
        if not samples:
            samples.extend(self.dataset)
        self.dataset.prepare_data = samples.__getitem__
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()

    def load(self, micro_batches: list[list[int]]) -> None:
        """Set what the loop learns from; the loader works in this process.

        Args:
            micro_batches (list[list[int]]): Indices of each micro-batch.
        """
        collate = self.loop.dataloader.collate_fn
        self.data = iter(DataLoader(self.dataset, batch_sampler=micro_batches, collate_fn=collate))

    def loss(self, number: int) -> float:
        """The mean of the last losses that the hooks were given, ``number`` of them."""
        return self.runner.message_hub.get_scalar('train/loss').data[0][-number:].mean()


def time_pair(ours: Side, stock: Side, number: int, stock_first: bool) -> np.ndarray:
    """Make one update with either loop.

    While GlobalBatchTrainLoop waits for its next micro-batch, the other computes one of its own.

    Args:
        ours (Side): GlobalBatchTrainLoop.
        stock (Side): EpochBasedTrainLoop.
        number (int): Micro-batches of the update, iterations of the other loop.
        stock_first (bool): Whether the other loop takes its turn first.

    Returns:
        np.ndarray: What :func:`clocks` advanced by, first for the other loop and then for ours,
        shape (2, 2).
    """
    update, theirs, waited, turns = ours.loop.iter, np.zeros(2), np.zeros(2), iter(range(number))

    def stock_turn() -> None:
        nonlocal theirs, waited
        stopped = clocks()
        # As the other loop seeds the model's draws; not part of what is timed.
        seed_generators((ours.loop.seed, update, next(turns)), MODEL)
        begin = clocks()
        stock.loop.run_iter(stock.loop.iter, next(stock.data))
        end = clocks()
        theirs += end - begin
        waited += end - stopped

    def micro_batches() -> Iterator[dict]:
        for position in range(number):
            if stock_first or position > 0:
                stock_turn()
            yield next(ours.data)

    begin = clocks()
    ours.loop.run_iter(update, micro_batches())
    own = clocks() - begin - waited
    if not stock_first:
        stock_turn()
    return np.stack([theirs, own])


def measure_pairs(part: str, pairs: int, shapes: Path, work_dir: Path) -> list:
    """Time the two loops in turn.

    Args:
        part (str): ``'update'`` or ``'accumulate'``.
        pairs (int): Updates of each loop that are timed.
        shapes (Path): Root folder of the shapes.
        work_dir (Path): Where the runners log.

    Returns:
        list: A row of a table: part, pairs, milliseconds of the other loop and of this one, median
        and quartiles of the ratio by either clock, the ratio allowed, and the greatest difference
        of the loss, relative.
    """
    number, allowed, _ = PAIRED[part]
    cfgs = [recipe(shapes, work_dir, f'{part}-{name}') for name in ('global', 'epoch')]
    for cfg in cfgs:
        # So low that the weights, and with them the work of a step, stay what they are.
        cfg.optim_wrapper.optimizer.lr = 1e-12
        cfg.train_cfg.max_epochs = 1000
        cfg.default_hooks.logger.interval = LOG_INTERVAL
        # It looks at an update before its step, which the other loop has no place for.
        del cfg.default_hooks['divergence']
    cfgs[0].train_cfg.global_batch_size = number
    cfgs[1].train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1000)
    cfgs[1].default_hooks.logger.interval *= number
    cfgs[1].optim_wrapper.accumulative_counts = number
    del cfgs[1].default_hooks['lr']
    cfgs[1].param_scheduler = get_config('mmdet::_base_/schedules/schedule_1x.py').param_scheduler

    samples: list[dict] = []
    ours, stock = (Side(cfg, samples) for cfg in cfgs)
    # Both take these, of the first epoch over and over; the sampler is left out of the time.
    micro_batches = list(ours.loop.sampler)
    whole = len(micro_batches) // number * number
    micro_batches = list(islice(cycle(micro_batches[:whole]), (UNTIMED + pairs) * number))
    seconds, differences = [], []
    for side in (ours, stock):
        side.load(micro_batches)
    for pair in range(UNTIMED + pairs):
        seconds.append(time_pair(ours, stock, number, stock_first=pair % 2 == 0))
        differences.append(abs(ours.loss(1) / stock.loss(number) - 1))
    theirs, own = np.array(seconds[UNTIMED:]).transpose(1, 2, 0)
    quartiles = np.quantile(own / theirs, (0.5, 0.25, 0.75), axis=1).T
    return [
        part,
        pairs,
        *(f'{np.median(side[0]) * 1e3:.1f}' for side in (theirs, own)),
        *('{:.4f} ({:.4f} to {:.4f})'.format(*ratio) for ratio in quartiles),
        f'<= {allowed}',
        f'{max(differences):.0e}',
    ]


def print_table(head: str, rows: list[list]) -> None:
    """Print a table in Markdown.

    Args:
        head (str): Heads of the columns, with ``|`` between them.
        rows (list[list]): The rows.
    """
    lines = [head.split('|'), ['---'] * len(rows[0]), *rows]
    print('\n' + '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines), flush=True)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Measure what the train loop costs.')
    parser.add_argument('--pairs', type=positive, help='updates timed of each loop')
    parser.add_argument('--shapes', type=Path, help='root folder of the shapes; else they are made')
    parts = [*PAIRED, 'resume']
    parser.add_argument('--part', nargs='+', choices=parts, default=parts, help='what to measure')
    return parser.parse_args()


@one_line_errors(parse_args)
def main(args: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        work_dir = Path(folder)
        shapes = args.shapes or work_dir / 'shapes'
        if args.shapes is None:
            write_split(shapes, 'train', 512, 128, 0)
        look_at_data(recipe(shapes, work_dir, 'check'), ['train'])
        tables = []
        with redirect_stdout(sys.stderr):
            rows = [
                measure_pairs(part, args.pairs or PAIRED[part][2], shapes, work_dir)
                for part in args.part
                if part in PAIRED
            ]
            if rows:
                tables.append((PAIRS_HEAD, rows))
            if 'resume' in args.part:
                tables.append((RESUME_HEAD, measure_resume(shapes, work_dir)))
                tables.append((SAMPLER_HEAD, measure_sampler()))
        for head, rows in tables:
            print_table(head, rows)


if __name__ == '__main__':
    main()
