"""Measure what `GlobalBatchTrainLoop` costs beside MMEngine's own train loops.

    python tools/benchmarks/loop.py [--pairs N] [--shapes DIR] [--part update accumulate resume]
        [--images N]

`update` times an update of one micro-batch against an iteration of `EpochBasedTrainLoop`;
`accumulate` an update of 8 micro-batches against 8 of its iterations with `accumulative_counts=8`.
Both loops run in one process, each with its own runner, hooks, schedule and log, and take turns
from update to update, on the same micro-batches with the same random draws; which goes first
alternates. The images are in memory and one thread computes; a GPU, if there is one, is waited for.
The result is the ratio within a pair, of wall time and of CPU time, which other programs disturb
less; equal losses show equal work. Images a second are those of a median update.

`resume` times how long a run resumed at update 900 of an epoch of 917 takes to its first update,
and counts the images that it reads, beside MMEngine's loops; then how long the sampler takes to
get there at COCO's size.
"""

import argparse
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from itertools import cycle, islice
from pathlib import Path
from time import process_time

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from resume import at_loop_start, measure_resume, measure_sampler, recipe
from torch.utils.benchmark import timer
from torch.utils.data import DataLoader

from mmdet_largebatch.cli import look_at_data, one_line_errors
from mmdet_largebatch.global_batch.seeding import MODEL, seed_generators

LOG_INTERVAL, UNTIMED = 8, 5  # updates
# Micro-batches of an update, the ratio that is allowed, and the default of --pairs.
PAIRED = dict(update=(1, 1.02, 150), accumulate=(8, 1.01, 30))
PAIRS_HEAD = (
    'part|pairs|EpochBasedTrainLoop, ms|GlobalBatchTrainLoop, ms|EpochBasedTrainLoop, images/s|'
    'GlobalBatchTrainLoop, images/s|ratio (quartiles)|ratio of CPU time|required|losses differ by'
)
RESUME_HEAD = (
    'resumed at update 900 of 917|data workers|first update, s|images read|'
    'first update on new images, s|images read'
)
SAMPLER_HEAD = 'sampler on 117,266 images, ranks|begins with update|s'


def clocks() -> np.ndarray:
    """Return seconds of wall time and of this process's CPU time, shape (2,)."""
    return np.array([timer(), process_time()])


class Side:
    """One of the two loops, before its first iteration; ``samples`` is the dataset in memory."""

    def __init__(self, cfg: Config, samples: list[dict]) -> None:
        self.runner = at_loop_start(cfg)
        self.loop = self.runner.train_loop
        self.dataset = self.loop.dataloader.dataset
        samples.extend([] if samples else self.dataset)
        self.dataset.prepare_data = samples.__getitem__
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()

    def load(self, micro_batches: list[list[int]]) -> None:
        """Set the data, given the images' indices in each micro-batch."""
        collate = self.loop.dataloader.collate_fn
        self.data = iter(DataLoader(self.dataset, batch_sampler=micro_batches, collate_fn=collate))

    def loss(self, number: int) -> float:
        """Return the mean of the last ``number`` losses that the hooks were given."""
        return self.runner.message_hub.get_scalar('train/loss').data[0][-number:].mean()


def time_pair(ours: Side, stock: Side, number: int, stock_first: bool) -> list[np.ndarray]:
    """Make one update of ``number`` micro-batches with either loop; return the stock loop's clocks
    and ours.
    """
    update, clocked = ours.loop.iter, {}

    def stock_iterations() -> np.ndarray:
        total = np.zeros(2)
        for turn in range(number):
            # As the other loop seeds the model's draws; not part of what is timed.
            seed_generators((ours.loop.seed, update, turn), MODEL)
            begin = clocks()
            stock.loop.run_iter(stock.loop.iter, next(stock.data))
            total += clocks() - begin
        return total

    def our_update() -> np.ndarray:
        begin = clocks()
        ours.loop.run_iter(update, islice(ours.data, number))
        return clocks() - begin

    turns = [stock_iterations, our_update]
    for turn in turns if stock_first else turns[::-1]:
        clocked[turn] = turn()
    return [clocked[turn] for turn in turns]


def paired_configs(part: str, images: int, shapes: Path, work_dir: Path) -> list[Config]:
    """Return the configs of GlobalBatchTrainLoop and EpochBasedTrainLoop."""
    number = PAIRED[part][0]
    ours, stock = cfgs = [recipe(shapes, work_dir, f'{part}-{x}') for x in ('global', 'epoch')]
    for cfg in cfgs:
        # So low that the weights, and with them the work of a step, do not change.
        cfg.optim_wrapper.optimizer.lr = 1e-12
        cfg.train_cfg.max_epochs = 1000
        cfg.default_hooks.logger.interval = LOG_INTERVAL
        cfg.train_dataloader.batch_size = images
        # It reads an update before its step, a hook point that the stock loop lacks.
        del cfg.default_hooks['divergence']
    ours.train_cfg.global_batch_size = number * images
    stock.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1000)
    stock.default_hooks.logger.interval *= number
    stock.optim_wrapper.accumulative_counts = number
    del stock.default_hooks['lr']
    stock.param_scheduler = get_config('mmdet::_base_/schedules/schedule_1x.py').param_scheduler
    return cfgs


def measure_pairs(part: str, pairs: int, images: int, shapes: Path, work_dir: Path) -> list:
    """Time the two loops in turn, on micro-batches of some images; return a row of the table."""
    number, allowed, _ = PAIRED[part]
    samples: list[dict] = []
    ours, stock = (Side(cfg, samples) for cfg in paired_configs(part, images, shapes, work_dir))
    # Both repeat the micro-batches of the first epoch; the sampler is not timed.
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
    medians = [np.median(side[0]) for side in (theirs, own)]
    times = [f'{median * 1e3:.1f}' for median in medians]
    times += [f'{number * images / median:.1f}' for median in medians]
    ratios = ['{:.4f} ({:.4f} to {:.4f})'.format(*ratio) for ratio in quartiles]
    return [part, pairs, *times, *ratios, f'<= {allowed}', f'{max(differences):.0e}']


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Measure what the train loop costs.')
    parser.add_argument('--pairs', type=int, help='updates timed of each loop')
    parser.add_argument('--images', type=int, default=1, help='images of a micro-batch')
    parser.add_argument('--shapes', type=Path, help='root folder of the shapes; else they are made')
    parts = [*PAIRED, 'resume']
    parser.add_argument('--part', nargs='+', choices=parts, default=parts, help='what to measure')
    return parser.parse_args()


@one_line_errors(parse_args)
def main(args: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        work_dir, tables = Path(folder), []
        shapes = args.shapes or work_dir / 'shapes'
        if args.shapes is None:
            tool = Path(__file__).parents[1] / 'make_shapes.py'
            subprocess.run([sys.executable, tool, '--out', shapes], check=True)
        look_at_data(recipe(shapes, work_dir, 'check'), ['train'])
        for part in (part for part in PAIRED if part in args.part):
            number = args.pairs or PAIRED[part][2]
            row = measure_pairs(part, number, args.images, shapes, work_dir)
            tables.append((PAIRS_HEAD, [row]))
        if 'resume' in args.part:
            tables.append((RESUME_HEAD, measure_resume(shapes, work_dir)))
            tables.append((SAMPLER_HEAD, measure_sampler()))
    for head, rows in tables:
        lines = [head.split('|'), ['---'] * len(rows[0]), *rows]
        print('', *(f'| {" | ".join(map(str, line))} |' for line in lines), sep='\n', flush=True)


if __name__ == '__main__':
    main()
