"""Measure the cost of what `GlobalBatchTrainLoop` adds to an update, and the error of its sums.

    python tools/benchmarks/update.py [--part PART ...] [--pairs N] [--ranks N] [--shapes DIR]

`exact_sum` times an update of the recipe on shapes with `train_cfg.exact_sum` against one without.
`means` times an update of ATSS R50 in two passes, which give `reduce_mean` the mean over all
micro-batches, against one pass. It runs on one process, with micro-batches of 2 images.
`noise_idle` times an update with a `NoiseScaleHook` that is not due against one without the hook,
`noise_due` one that is measured against one that is not due; both of 2 micro-batches of the recipe
on shapes, and `_exact` with `train_cfg.exact_sum`. One runner makes both kinds of update.

Otherwise each process holds two runners, one of either kind. The kinds take turns on the same
pictures in memory and change who goes first. One thread a process; the LR is too low to change the
work of a step.

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
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from resume import at_loop_start, recipe

import mmdet_largebatch  # noqa: F401
from mmdet_largebatch.cli import use_gloo_without_gpu
from mmdet_largebatch.global_batch.micro_batch_gradients import MicroBatchGradients
from mmdet_largebatch.global_batch.seeding import MODEL, seed_generators
from mmdet_largebatch.hooks import NoiseScaleHook

ROOT = Path(__file__).parents[2]
SHAPES = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
R50 = ROOT / 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'
UNTIMED, MICRO_BATCHES = 4, 8


class Compared(NamedTuple):
    """Two kinds of update: names of their columns, work of each, ratio allowed, default pairs."""

    kinds: tuple[str, str]
    micro_batches: int
    images: int
    required: float
    pairs: int


COMPARED = dict(
    exact_sum=Compared(('without', 'exact_sum'), 1, 8, 1.05, 60),
    means=Compared(('one pass', 'two passes'), 4, 2, 1.40, 20),
    **{
        f'noise_{kind}{exact}': Compared(names, 2, 8, required, 60)
        for exact in ('', '_exact')
        for kind, names, required in (
            ('idle', ('no hook', 'not due'), 1.01),
            ('due', ('not due', 'due'), 1.10),
        )
    },
)
NEVER = 10**9
HEAD = 'part | processes | pairs | {}, ms | {}, ms | ratio (quartiles) | of CPU time | required'


def config_of(part: str, shapes: Path, folder: Path, second: bool, ranks: int) -> Config:
    """Return the config of one kind of update.

    Args:
        part (str): Key of ``COMPARED``.
        shapes (Path): Root folder of the shapes.
        folder (Path): Where it logs.
        second (bool): Whether it is the second kind.
        ranks (int): Number of processes.

    Returns:
        Config: The config.
    """
    compared = COMPARED[part]
    cfg = recipe(shapes, folder, f'{part}_{second}', SHAPES)
    if part == 'means':
        cfg.model = get_config('mmdet::atss/atss_r50_fpn_1x_coco.py').model
        cfg.model.backbone.init_cfg = None
        cfg.model.bbox_head.num_classes = 3
        for transform in cfg.train_dataloader.dataset.pipeline:
            if transform.type == 'Resize':
                transform.scale = (256, 256)
    cfg.train_dataloader.batch_size = compared.images
    cfg.train_cfg.update(
        exact_sum=part.endswith('_exact') or (second and part == 'exact_sum'),
        max_epochs=1000,
        global_batch_size=compared.images * compared.micro_batches * ranks,
    )
    cfg.optim_wrapper.optimizer.lr = 1e-12
    cfg.launcher = 'pytorch' if ranks > 1 else 'none'
    use_gloo_without_gpu(cfg)
    return cfg


def runner_of(part: str, cfg: Config, second: bool) -> Runner:
    """Return a runner that stands before its first update.

    Args:
        part (str): Key of ``COMPARED``.
        cfg (Config): Its config.
        second (bool): Whether it is the second kind.

    Returns:
        Runner: The runner.
    """
    runner = at_loop_start(cfg)
    for point in ('before_train', 'before_train_epoch'):
        runner.call_hook(point)
    runner.model.train()
    if part == 'means' and not second:
        # The loop of a model that does not call reduce_mean, from its second update on.
        means = runner.train_loop._update._rank_means
        means.probing = means.intercepts = False
    return runner


def set_noise_hook(part: str, runner: Runner, second: bool) -> None:
    """Set the hook of the next update: none, not due, or due.

    Args:
        part (str): Key of ``COMPARED``.
        runner (Runner): The runner, with a ``NoiseScaleHook`` or none.
        second (bool): Whether the update is of the second kind.
    """
    runner.hooks[:] = [x for x in runner.hooks if not isinstance(x, NoiseScaleHook)]
    due = part.startswith('noise_due')
    if second or due:
        hook = NoiseScaleHook(interval=1 if second and due else NEVER)
        hook.before_train(runner)
        runner.hooks.append(hook)


def updates_data(runner: Runner, compared: Compared, updates: int) -> Iterator[dict]:
    """Yield the micro-batches of updates on the same pictures.

    Args:
        runner (Runner): Has the dataset.
        compared (Compared): The size of an update.
        updates (int): How many updates.

    Yields:
        dict: The pictures of a micro-batch.
    """
    images, number = compared.images, compared.micro_batches
    # The same flips for both kinds: they change the work of an update by some per cent.
    np.random.seed(0)
    samples = [runner.train_loop.dataloader.dataset[index] for index in range(images * number)]
    for _ in range(updates):
        for begin in range(0, len(samples), images):
            yield pseudo_collate([dict(sample) for sample in samples[begin : begin + images]])


def time_pairs(
    part: str, rank: int, ranks: int, port: int, pairs: int, shapes: Path, folder: Path
) -> None:
    """Time the pairs on one of the processes; the first one prints.

    Args:
        part (str): Key of ``COMPARED``.
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
    compared = COMPARED[part]
    one = part.startswith('noise')
    sides = [
        runner_of(part, config_of(part, shapes, folder, second, ranks), second)
        for second in ((False,) if one else (False, True))
    ]
    sides *= 2 if one else 1
    data = [updates_data(side, compared, UNTIMED + pairs) for side in sides]
    seconds = np.zeros((UNTIMED + pairs, 2, 2))
    for pair in range(UNTIMED + pairs):
        for kind in (0, 1) if pair % 2 else (1, 0):
            if one:
                set_noise_hook(part, sides[kind], bool(kind))
            dist.barrier()
            begin = perf_counter(), process_time()
            sides[kind].train_loop.run_iter(pair, data[kind])
            seconds[pair, kind] = np.subtract((perf_counter(), process_time()), begin)
    every: list = [None] * ranks
    dist.all_gather_object(every, seconds[UNTIMED:])
    if rank == 0:
        clock, work = np.max(every, axis=0)[..., 0], np.sum(every, axis=0)[..., 1]
        print('|', HEAD.format(*compared.kinds), '|\n', '| --- ' * 8, '|', sep='')
        ratios = ['{:.4f} ({:.4f} to {:.4f})'.format(*quartiles(t)) for t in (clock, work)]
        times = [f'{x:.1f}' for x in np.median(clock, axis=0) * 1e3]
        row = [part, str(ranks), str(pairs), *times, *ratios, f'≤ {compared.required:.2f}']
        print('|', ' | '.join(row), '|', flush=True)
    dist.destroy_process_group()


def quartiles(seconds: np.ndarray) -> np.ndarray:
    """Return median and quartiles of the ratio within a pair.

    Args:
        seconds (np.ndarray): Of both kinds, shape (pairs, 2).

    Returns:
        np.ndarray: Shape (3,).
    """
    return np.quantile(seconds[:, 1] / seconds[:, 0], (0.5, 0.25, 0.75))


def measure_cost(part: str, pairs: int, ranks: int, shapes: Path, folder: Path) -> None:
    """Start the processes that :func:`time_pairs` describes.

    Args:
        part (str): Key of ``COMPARED``.
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
        context.Process(target=time_pairs, args=(part, rank, ranks, port, pairs, shapes, folder))
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = [*COMPARED, 'error']
    parser.add_argument('--part', nargs='+', choices=parts, default=parts, help='what to measure')
    parser.add_argument('--pairs', type=int, help='updates timed of each kind (60, means: 20)')
    parser.add_argument('--ranks', type=int, default=2, help='processes of exact_sum')
    parser.add_argument('--shapes', type=Path, default=ROOT / 'data/shapes', help='the pictures')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part in [part for part in COMPARED if part in args.part]:
            ranks = args.ranks if part == 'exact_sum' else 1
            pairs = args.pairs or COMPARED[part].pairs
            measure_cost(part, pairs, ranks, args.shapes, Path(folder))
    if 'error' in args.part:
        measure_error(args.shapes)


if __name__ == '__main__':
    main()
