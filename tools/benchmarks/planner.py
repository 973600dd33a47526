"""Compare the hours that `plan.py` predicts with the time that trainings take.

    python tools/benchmarks/planner.py [--shapes DIR] [--part sleeps measure] [--rounds N]

`sleeps` replaces the model by sleeps with lognormal times of a known spread: 8 micro-batches an
update on 1 to 8 gloo processes, which wait for one another after each update. Predicted is the mean
of the slowest rank.

`measure` predicts an update of the LAMB recipe on shapes on two gloo processes, from what
`plan.py --measure` measures on one and from the bandwidth of an all-reduce between two, which is
measured too. Found is the mean logged time of the updates of `dist_train.sh`. Both load in the
training process, with one thread each, at an LR too low to change the weights.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import torch
import torch.distributed as dist
from mmengine.config import Config

from mmdet_largebatch.cli import one_line_errors
from mmdet_largebatch.planning import make_plan, measure
from mmdet_largebatch.planning.update_time import lognormal, slowest_rank, update_time
from mmdet_largebatch.results import read_run

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
# Micro-batches of an update, the mean time of one in seconds, and their CV.
MICRO_BATCHES, MEAN, CV = 8, 0.05, 0.3
# Updates before the ones that count: first calls allocate.
UNTIMED = 5
HEAD = 'part|processes|micro-batches each|predicted, ms|found, ms|found / predicted|required'


def on_processes(function: Callable[..., float], ranks: int, *arguments: object) -> float:
    """Call a function on several gloo processes; return what it returns on rank 0."""
    context = get_context('fork')
    with tempfile.TemporaryDirectory() as folder:
        results = context.SimpleQueue()

        def run(rank: int) -> None:
            store = f'file://{folder}/store'
            dist.init_process_group('gloo', init_method=store, rank=rank, world_size=ranks)
            found = function(rank, ranks, *arguments)
            if rank == 0:
                results.put(found)
            dist.destroy_process_group()

        processes = [context.Process(target=run, args=(rank,)) for rank in range(ranks)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            sys.exit('a process of the benchmark failed')
        return results.get()


def sleeping(rank: int, ranks: int, updates: int) -> float:
    """Return the mean seconds of updates in which every micro-batch is a sleep."""
    share = len(range(rank, MICRO_BATCHES, ranks))
    population = lognormal(MEAN, CV)
    drawn = np.random.default_rng(rank).choice(population, (updates + UNTIMED, share))
    gradient = torch.zeros(1)
    for update, times in enumerate(drawn):
        if update == UNTIMED:
            begin = perf_counter()
        for seconds in times:
            sleep(seconds)
        dist.all_reduce(gradient)
    return (perf_counter() - begin) / updates


def measure_sleeps(updates: int) -> list[list]:
    """Return a row for each number of processes."""
    rows = []
    for ranks in (1, 2, 4, 8):
        predicted = slowest_rank(lognormal(MEAN, CV), ranks, MICRO_BATCHES).mean()
        # The fewer micro-batches a rank has, the more an update varies.
        found = on_processes(sleeping, ranks, updates * ranks)
        rows.append(row('sleeps', ranks, MICRO_BATCHES // ranks, predicted, found, 0.05))
    return rows


def all_reducing(rank: int, ranks: int, size: int, dtype: torch.dtype) -> float:
    """Return the median seconds of an all-reduce of `size` numbers."""
    torch.set_num_threads(1)
    gradients, seconds = torch.zeros(size, dtype=dtype), []
    for _ in range(UNTIMED + 20):
        begin = perf_counter()
        dist.all_reduce(gradients)
        seconds.append(perf_counter() - begin)
    return float(np.median(seconds[UNTIMED:]))


def training_config(shapes: Path, share: int) -> Config:
    """Return the recipe for two processes, without evaluation."""
    cfg = Config.fromfile(RECIPE)
    cfg.train_dataloader.dataset.data_root = f'{shapes}/'
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.global_batch_size = 2 * share * cfg.train_dataloader.batch_size
    cfg.update({f'{a}_{b}': None for a in ('val', 'test') for b in ('dataloader', 'cfg')})
    cfg.val_evaluator = cfg.test_evaluator = None
    cfg.optim_wrapper.optimizer.lr = 1e-12
    cfg.default_hooks.lr.warmup_iters = 0
    return cfg


def trained(cfg: Config, updates: int, folder: Path) -> float:
    """Train on two processes; return the mean logged seconds of an update."""
    cfg = Config(cfg.to_dict())
    cfg.default_hooks.logger.interval = cfg.log_processor.window_size = 1
    cfg.train_cfg.update(max_updates=UNTIMED + updates, max_epochs=1000)
    cfg.default_hooks.checkpoint = dict(type='AtomicCheckpointHook', interval=1000)
    path, work_dir = folder / 'config.py', folder / 'work'
    cfg.dump(path)
    path_of_python = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    done = subprocess.run(
        ['tools/dist_train.sh', path, '2', '--work-dir', work_dir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | dict(OMP_NUM_THREADS='1', PATH=path_of_python),
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    seconds = [logged.seconds for logged in read_run(work_dir).updates]
    return float(np.mean(seconds[UNTIMED:]))


def measure_training(shapes: Path, updates: int, shares: list[int]) -> list[list]:
    """Return a row for each number of micro-batches of a process."""
    rows = []
    for share in shares:
        cfg = training_config(shapes, share)
        plan = make_plan(cfg, 2)
        kind = torch.int64 if plan.exact_sum else torch.float32
        seconds = on_processes(all_reducing, 2, plan.parameters, kind)
        # Of two ranks, each sends half of the bytes twice.
        gigabits = 8 * plan.gradient_bytes / seconds / 1e9
        predicted = update_time(measure(cfg, plan), plan, 0, gigabits).total
        with tempfile.TemporaryDirectory() as folder:
            found = trained(cfg, updates, Path(folder))
        rows.append(row('measure', 2, share, predicted, found, 0.1))
    return rows


def row(part: str, ranks: int, share: int, predicted: float, found: float, within: float) -> list:
    """Return a row of the table."""
    times = [f'{1e3 * seconds:.1f}' for seconds in (predicted, found)]
    return [part, ranks, share, *times, f'{found / predicted:.3f}', f'{1 - within} to {1 + within}']


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Compare predicted and found times of an update.')
    parser.add_argument('--shapes', type=Path, help='root folder of the shapes; else they are made')
    parts = ['sleeps', 'measure']
    parser.add_argument('--part', nargs='+', choices=parts, default=parts, help='what to compare')
    parser.add_argument('--updates', type=int, default=100, help='updates that are timed')
    parser.add_argument(
        '--shares', nargs='+', type=int, default=[1, 4], help='micro-batches of a process (measure)'
    )
    parser.add_argument('--rounds', type=int, default=1, help='times that all is repeated')
    return parser.parse_args()


@one_line_errors(parse_args)
def main(args: argparse.Namespace) -> None:
    """Measure and print."""
    rows = []
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        shapes = args.shapes or Path(folder) / 'shapes'
        if args.shapes is None and 'measure' in args.part:
            tool = ROOT / 'tools/make_shapes.py'
            subprocess.run([sys.executable, tool, '--out', shapes], check=True, capture_output=True)
        for _ in range(args.rounds):
            if 'sleeps' in args.part:
                rows += measure_sleeps(args.updates)
            if 'measure' in args.part:
                rows += measure_training(shapes.resolve(), args.updates, args.shares)
    lines = [HEAD.split('|'), ['---'] * len(rows[0]), *rows]
    print(*(f'| {" | ".join(map(str, line))} |' for line in lines), sep='\n')


if __name__ == '__main__':
    main()
