"""Train the recipe on shapes on one process: AP and images a second by precision.

    python tools/benchmarks/train_shapes.py --dtype float16 --work-dir DIR [--shapes DIR] [--short]

The launcher of `tools/dist_train.sh` starts it, on a GPU under nccl. float16 and bfloat16 are
MMEngine's AmpOptimWrapper. MMCV's RoIAlign and NMS do not take bfloat16, so RoIAlign and the RPN's
outputs are float32 (mixed_precision.py). On a CPU, MMEngine has bfloat16 alone.

Images a second are the median over the log after the first epoch: loading and augmentation are in
it, evaluation and checkpoints are not. The exit status is 1 if the box AP is below 0.7; on a CPU it
was 0.80. `--short` trains two epochs and asks for no AP.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch

from mmdet_largebatch.cli import one_line_errors
from mmdet_largebatch.results import read_run
from mmdet_largebatch.results.run import Run

ROOT = Path(__file__).resolve().parents[2]
RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
MIXED = 'tools/benchmarks/mixed_precision_shapes.py'
LOWEST_AP = 0.7
WORKERS = 4
SHORT = (
    *('train_cfg.max_epochs=2', 'default_hooks.lr.milestones=[1]'),
    *('default_hooks.lr.warmup_iters=1', 'default_hooks.logger.interval=1'),
    *(f'{x}_dataloader.num_workers=0' for x in ('train', 'val')),
)


def command(args: argparse.Namespace) -> list[str]:
    """Return the words that start the training."""
    root = args.shapes.resolve()
    annotations = root / 'annotations/instances_val.json'
    options = [f'{x}_dataloader.dataset.data_root={root}/' for x in ('train', 'val', 'test')]
    options += [f'{x}_evaluator.ann_file={annotations}' for x in ('val', 'test')]
    options += [f'train_dataloader.num_workers={min(WORKERS, os.cpu_count() or 1)}']
    options += SHORT if args.short else []
    config = RECIPE if args.dtype == 'float32' else MIXED
    if config == MIXED:
        options += [f'optim_wrapper.dtype={args.dtype}']
        if not torch.cuda.is_available():
            options += ['optim_wrapper.type=CPUAmpOptimWrapper']
    # As dist_train.sh does; that needs an interpreter of the name python.
    words = [sys.executable, 'tools/launch.py', 'train.py', config, '1']
    return [*words, '--work-dir', str(args.work_dir.resolve()), '--cfg-options', *options]


def row(run: Run, dtype: str) -> dict[str, str]:
    """Return what a run came to, by column."""
    last = run.evaluations[-1] if run.evaluations else None
    box, mask = (last.box_ap, last.mask_ap) if last else (None, None)
    seconds = [x.seconds for x in run.updates if x.epoch > 1 and x.seconds]
    speed = run.global_batch / median(seconds) if run.global_batch and seconds else None
    return {
        'precision': dtype,
        'device': torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu',
        'box AP': '-' if box is None else f'{box:.3f}',
        'mask AP': '-' if mask is None else f'{mask:.3f}',
        'images/s': '-' if speed is None else f'{speed:.1f}',
        'updates': str(run.updates[-1].update if run.updates else 0),
        'ended': str(run.ended.get('how')),
    }


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train the recipe on shapes on one process')
    dtypes = ['float32', 'float16', 'bfloat16']
    parser.add_argument('--dtype', choices=dtypes, default='float32', help='precision')
    parser.add_argument('--work-dir', type=Path, required=True, help='folder of logs')
    parser.add_argument('--shapes', type=Path, default=ROOT / 'data/shapes', help='the pictures')
    parser.add_argument('--short', action='store_true', help='two epochs')
    return parser.parse_args()


@one_line_errors(parse_args)
def main(args: argparse.Namespace) -> None:
    """Train, and print a table of one row."""
    # The package, and mixed_precision.py.
    folders = [str(ROOT), str(Path(__file__).resolve().parent), os.environ.get('PYTHONPATH', '')]
    environment = os.environ | dict(PYTHONPATH=os.pathsep.join(folders))
    done = subprocess.run(command(args), cwd=ROOT, env=environment, stdout=sys.stderr)
    if done.returncode:
        sys.exit(done.returncode)
    run = read_run(args.work_dir)
    cells = row(run, args.dtype)
    for line in (cells, ['---'] * len(cells), cells.values()):
        print(f'| {" | ".join(line)} |')
    found = run.evaluations[-1].box_ap if run.evaluations else None
    if not args.short and (found or 0) < LOWEST_AP:
        print(f'box AP {found}: below {LOWEST_AP}', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
