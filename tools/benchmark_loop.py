"""Measure what `GlobalBatchTrainLoop` costs beside MMEngine's own train loops.

    python tools/benchmark_loop.py [--pairs N] [--shapes DIR] [--part update accumulate resume]

`update` times an update of one micro-batch against an iteration of `EpochBasedTrainLoop`;
`accumulate` an update of 8 micro-batches against 8 of its iterations with `accumulative_counts=8`.
Both loops stand in one process, each with its own runner, hooks, schedule and log, and take turns,
over the same micro-batches, with the same random draws, changing who goes first. The pictures are
in memory. What counts is the ratio within a pair; that the losses are the same shows that both
did the same work.

`resume` times how long a run that goes on from update 900 of an epoch of 917 takes to its first
update, and counts the pictures that it reads, beside what MMEngine's loops do; then how long the
sampler takes to get there at COCO's size.
"""

import argparse
import tempfile
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import List

import numpy as np
import torch
from benchmark_resume import MICRO_BATCH, at_loop_start, measure_resume, measure_sampler, recipe
from make_shapes import positive, write_split
from mmengine.config import Config
from mmengine.hub import get_config
from torch.utils.data import DataLoader

from mmdet_largebatch.batching.seeding import MODEL, seed_generators
from mmdet_largebatch.cli import check_annotations, one_line_errors

LOG_INTERVAL, UNTIMED = 8, 5
# Micro-batches of an update, the ratio that is allowed, and pairs where --pairs does not say.
PAIRED = dict(update=(1, 1.02, 200), accumulate=(8, 1.01, 40))


class Side:
    """One of the two loops, standing before its first iteration.

    Args:
        cfg (Config): Config of its runner.
        samples (List[dict]): The dataset, loaded; filled in if it is empty.
    """

    def __init__(self, cfg: Config, samples: List[dict]) -> None:
        self.runner = at_loop_start(cfg)
        self.loop = self.runner.train_loop
        self.dataset = self.loop.dataloader.dataset
        if not samples:
            samples.extend(self.dataset)
        self.dataset.prepare_data = samples.__getitem__
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()

    def load(self, micro_batches: List[List[int]]) -> None:
        """Set what the loop learns from; the loader works in this process.

        Args:
            micro_batches (List[List[int]]): Indices of each micro-batch.
        """
        collate = self.loop.dataloader.collate_fn
        self.data = iter(DataLoader(self.dataset, batch_sampler=micro_batches, collate_fn=collate))

    def update(self) -> float:
        """Make an update with GlobalBatchTrainLoop.

        Returns:
            float: Seconds.
        """
        begin = perf_counter()
        self.loop.run_iter(self.loop.iter, self.data)
        return perf_counter() - begin

    def iterations(self, number: int, seed: int) -> float:
        """Make the iterations of an update with EpochBasedTrainLoop.

        Args:
            number (int): How many.
            seed (int): Seed of the run. The model's draws are seeded by it as the other loop seeds
                them, outside of the time.

        Returns:
            float: Seconds.
        """
        seconds, update = 0.0, self.loop.iter // number
        for micro_batch in range(number):
            seed_generators((seed, update, micro_batch), MODEL)
            begin = perf_counter()
            self.loop.run_iter(self.loop.iter, next(self.data))
            seconds += perf_counter() - begin
        return seconds

    def loss(self, number: int) -> float:
        """The mean of the last losses that the hooks were given, ``number`` of them."""
        return self.runner.message_hub.get_scalar('train/loss').data[0][-number:].mean()


def measure_pairs(part: str, pairs: int, shapes: Path, work_dir: Path) -> list:
    """Time the two loops in turn.

    Args:
        part (str): ``'update'`` or ``'accumulate'``.
        pairs (int): Updates of each loop that are timed.
        shapes (Path): Root folder of the shapes.
        work_dir (Path): Where the runners log.

    Returns:
        list: A row of a table: part, pairs, milliseconds of the other loop and of this, median and
        quartiles of their ratio, the ratio allowed, and the greatest difference of the loss.
    """
    number, allowed, _ = PAIRED[part]
    cfgs = [recipe(shapes, work_dir, f'{part}-{name}') for name in ('global', 'epoch')]
    for cfg in cfgs:
        # So low that the weights, and with them the work of a step, stay what they are.
        cfg.optim_wrapper.optimizer.lr = 1e-9
        cfg.train_cfg.max_epochs = 1000
        cfg.default_hooks.logger.interval = LOG_INTERVAL
    cfgs[0].train_cfg.global_batch_size = number * MICRO_BATCH
    cfgs[1].train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1000)
    cfgs[1].default_hooks.logger.interval *= number
    cfgs[1].optim_wrapper.accumulative_counts = number
    del cfgs[1].default_hooks['lr']
    cfgs[1].param_scheduler = get_config('mmdet::_base_/schedules/schedule_1x.py').param_scheduler

    samples: List[dict] = []
    ours, stock = (Side(cfg, samples) for cfg in cfgs)
    # Both take these, of the first epoch over and over; the sampler is left out of the time.
    micro_batches = list(ours.loop.sampler)
    whole = len(micro_batches) // number * number
    micro_batches = list(islice(cycle(micro_batches[:whole]), (UNTIMED + pairs) * number))
    seconds, differences = [], []
    for side in (ours, stock):
        side.load(micro_batches)
    for pair in range(UNTIMED + pairs):
        both = {}
        for side in (ours, stock) if pair % 2 else (stock, ours):
            both[side] = ours.update() if side is ours else stock.iterations(number, ours.loop.seed)
        seconds.append((both[stock], both[ours]))
        differences.append(abs(ours.loss(1) / stock.loss(number) - 1))
    theirs, own = np.array(seconds[UNTIMED:]).T
    low, median, high = np.quantile(own / theirs, (0.25, 0.5, 0.75))
    return [
        part,
        pairs,
        f'{np.median(theirs) * 1e3:.1f}',
        f'{np.median(own) * 1e3:.1f}',
        f'{median:.4f}',
        f'{low:.4f} to {high:.4f}',
        f'<= {allowed}',
        f'{max(differences):.0e}',
    ]


def table(head: str, rows: List[list]) -> None:
    """Print a table in Markdown.

    Args:
        head (str): Heads of the columns, with ``|`` between them.
        rows (List[list]): The rows.
    """
    lines = [head.split('|'), ['---'] * len(rows[0]), *rows]
    print('\n' + '\n'.join(f'| {" | ".join(map(str, line))} |' for line in lines), flush=True)


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description='Measure what the train loop costs.')
    parser.add_argument('--pairs', type=positive, help='updates timed of each loop')
    parser.add_argument('--shapes', type=Path, help='root folder of the shapes; else they are made')
    parts = [*PAIRED, 'resume']
    parser.add_argument('--part', nargs='+', choices=parts, default=parts, help='what to measure')
    args = parser.parse_args()
    torch.set_num_threads(1)
    with one_line_errors(['train']) as context, tempfile.TemporaryDirectory() as folder:
        work_dir = Path(folder)
        shapes = args.shapes or work_dir / 'shapes'
        if args.shapes is None:
            write_split(shapes, 'train', 512, 128, 0)
        context['cfg'] = recipe(shapes, work_dir, 'check')
        check_annotations(context['cfg'], ['train'])
        rows = [
            measure_pairs(part, args.pairs or PAIRED[part][2], shapes, work_dir)
            for part in args.part
            if part in PAIRED
        ]
        if rows:
            table(
                'part|pairs|EpochBasedTrainLoop, ms|GlobalBatchTrainLoop, ms|ratio, median|'
                'quartiles|required|losses differ by',
                rows,
            )
        if 'resume' in args.part:
            table(
                'resumed at update 900 of 917|data workers|first update, s|pictures read|'
                'first update on new pictures, s|pictures read',
                measure_resume(shapes, work_dir),
            )
            table('sampler on 117,266 pictures, ranks|begins with update|s', measure_sampler())


if __name__ == '__main__':
    main()
