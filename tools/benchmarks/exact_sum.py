"""Measure the cost and the error of `train_cfg.exact_sum=True`.

    python tools/benchmarks/exact_sum.py [--part cost error] [--pairs N] [--ranks N] [--shapes DIR]

`cost` times an update of the recipe on shapes with `exact_sum` against one without. Each process
holds two runners, one of either kind, which take turns on the same pictures in memory and change
who goes first. One thread a process; the learning rate is too low to change the work of a step.

`error` takes the gradients of 8 micro-batches of Mask R-CNN R50, whose layers have their real size,
and gives the relative L2 error of the sum of integers and of a float32 sum against float64.
"""

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
import torch.distributed as dist
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from resume import at_loop_start, recipe

import mmdet_largebatch  # noqa: F401
from mmdet_largebatch.cli import use_gloo_without_gpu
from mmdet_largebatch.global_batch.micro_batch_gradients import MicroBatchGradients
from mmdet_largebatch.global_batch.seeding import MODEL, seed_generators

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
R50 = ROOT / 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'
UNTIMED, MICRO_BATCHES = 4, 8


def runner_of(shapes: Path, folder: Path, exact: bool, ranks: int) -> Runner:
    """Return a runner that stands before its first update.

    Args:
        shapes (Path): Root folder of the shapes.
        folder (Path): Where it logs.
        exact (bool): Value of ``exact_sum``.
        ranks (int): Number of processes.

    Returns:
        Runner: The runner.
    """
    cfg = recipe(shapes, folder, f'exact_{exact}', SHAPES)
    cfg.train_dataloader.batch_size = 8
    cfg.train_cfg.update(exact_sum=exact, max_epochs=1000, global_batch_size=8 * ranks)
    cfg.optim_wrapper.optimizer.lr = 1e-12
    cfg.launcher = 'pytorch' if ranks > 1 else 'none'
    use_gloo_without_gpu(cfg)
    runner = at_loop_start(cfg)
    for point in ('before_train', 'before_train_epoch'):
        runner.call_hook(point)
    runner.model.train()
    return runner


def micro_batches(runner: Runner, number: int) -> Iterator[dict]:
    """Yield micro-batches of the same 8 pictures.

    Args:
        runner (Runner): Has the dataset.
        number (int): How many.

    Yields:
        dict: The pictures.
    """
    samples = [runner.train_loop.dataloader.dataset[index] for index in range(8)]
    for _ in range(number):
        yield pseudo_collate([dict(sample) for sample in samples])


def time_pairs(rank: int, ranks: int, port: int, pairs: int, shapes: Path, folder: Path) -> None:
    """Time the pairs on one of the processes; the first one prints.

    Args:
        rank (int): This process.
        ranks (int): Number of processes.
        port (int): A free port of the loopback.
        pairs (int): Updates of each kind that are timed.
        shapes (Path): Root folder of the shapes.
        folder (Path): Where the runners log.
    """
    torch.set_num_threads(1)
    places = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=ranks, MASTER_PORT=port)
    os.environ.update({k: str(v) for k, v in places.items()}, MASTER_ADDR='127.0.0.1')
    dist.init_process_group('gloo')
    init_default_scope('mmdet')
    sides = [runner_of(shapes, folder, exact, ranks) for exact in (False, True)]
    data = [micro_batches(side, UNTIMED + pairs) for side in sides]
    seconds = np.zeros((UNTIMED + pairs, 2, 2))
    for pair in range(UNTIMED + pairs):
        for kind in (0, 1) if pair % 2 else (1, 0):
            dist.barrier()
            begin = perf_counter(), process_time()
            sides[kind].train_loop.run_iter(pair, data[kind])
            seconds[pair, kind] = np.subtract((perf_counter(), process_time()), begin)
    every: list = [None] * ranks
    dist.all_gather_object(every, seconds[UNTIMED:])
    if rank == 0:
        clock, work = np.max(every, axis=0)[..., 0], np.sum(every, axis=0)[..., 1]
        print(
            '| processes | pairs | without, ms | exact_sum, ms | ratio (quartiles) | of CPU time |'
        )
        print('| --- | --- | --- | --- | --- | --- |')
        ratios = ['{:.4f} ({:.4f} to {:.4f})'.format(*quartiles(t)) for t in (clock, work)]
        times = [f'{x:.1f}' for x in np.median(clock, axis=0) * 1e3]
        print('|', ' | '.join([str(ranks), str(pairs), *times, *ratios]), '|', flush=True)
    dist.destroy_process_group()


def quartiles(seconds: np.ndarray) -> np.ndarray:
    """Return median and quartiles of the ratio within a pair.

    Args:
        seconds (np.ndarray): Of both kinds, shape (pairs, 2).

    Returns:
        np.ndarray: Shape (3,).
    """
    return np.quantile(seconds[:, 1] / seconds[:, 0], (0.5, 0.25, 0.75))


def measure_cost(pairs: int, ranks: int, shapes: Path, folder: Path) -> None:
    """Start the processes that :func:`time_pairs` describes.

    Args:
        pairs (int): Updates of each kind that are timed.
        ranks (int): Number of processes.
        shapes (Path): Root folder of the shapes.
        folder (Path): Where the runners log.
    """
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    context = get_context('fork')
    processes = [
        context.Process(target=time_pairs, args=(rank, ranks, port, pairs, shapes, folder))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def measure_error(shapes: Path) -> None:
    """Print the errors of the two sums.

    Args:
        shapes (Path): Root folder of the shapes.
    """
    torch.set_num_threads(1)
    init_default_scope('mmdet')
    cfg = Config.fromfile(R50)
    cfg.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    with redirect_stdout(sys.stderr):
        model.init_weights()
        dataset = DATASETS.build(
            Config.fromfile(SHAPES).train_dataloader.dataset | dict(data_root=f'{shapes}/')
        )
    exact = MicroBatchGradients(model, 1, MICRO_BATCHES, True)
    exact.begin()
    true: dict[str, torch.Tensor] = {}
    single: dict[str, torch.Tensor] = {}

    def listen(gradients: dict[str, torch.Tensor]) -> None:
        for name, gradient in gradients.items():
            true[name] = true.get(name, 0) + gradient.double() / MICRO_BATCHES
            single[name] = single.get(name, 0) + gradient / MICRO_BATCHES

    for number in range(MICRO_BATCHES):
        seed_generators((0, 0, number), MODEL)
        batch = pseudo_collate([dataset[2 * number], dataset[2 * number + 1]])
        data = model.data_preprocessor(batch, True)
        model.parse_losses(model(**data, mode='loss'))[0].backward()
        exact.add(1.0, listen)
    exact.finish()
    mean = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    print('| sum | relative L2 error, all | the worst tensor |\n| --- | --- | --- |')
    for what, found in (('integers', mean), ('float32', single)):
        squares = torch.tensor(
            [[float((found[n] - true[n]).norm() ** 2), float(true[n].norm() ** 2)] for n in true]
        ).double()
        whole = (squares[:, 0].sum() / squares[:, 1].sum()).sqrt()
        squares = squares[squares[:, 1] > 0]
        worst = (squares[:, 0] / squares[:, 1]).sqrt().max()
        print(f'| {what} | {whole:.1e} | {worst:.1e} |')


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description='Measure the cost and the error of exact sums.')
    parser.add_argument('--part', nargs='+', choices=['cost', 'error'], default=['cost', 'error'])
    parser.add_argument('--pairs', type=int, default=60, help='updates timed of each kind')
    parser.add_argument('--ranks', type=int, default=2, help='processes')
    parser.add_argument('--shapes', type=Path, default=ROOT / 'data/shapes', help='the pictures')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if 'cost' in args.part:
            measure_cost(args.pairs, args.ranks, args.shapes, Path(folder))
    if 'error' in args.part:
        measure_error(args.shapes)


if __name__ == '__main__':
    main()
