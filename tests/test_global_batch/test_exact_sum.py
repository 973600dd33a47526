"""Sums of integers: the same bits on any number of ranks."""

import json
import sys

import pytest
import torch
from helpers import exact_runs
from helpers.common import EVERY_PROPOSAL, ROOT, data_options
from helpers.forked import run_apart
from helpers.same_bits import assert_same_bits

RECIPE = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
# 20 pictures of 64 x 64 in 8 micro-batches of 2: 2 updates an epoch.
SMALL = {
    **EVERY_PROPOSAL,
    'model.train_cfg.rcnn.sampler.num': 16,
    'model.backbone.base_channels': 16,
    'model.neck.in_channels': [16, 32, 64, 128],
    'train_dataloader.batch_size': 2,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'train_cfg.exact_sum': True,
    'train_cfg.max_epochs': 2,
    'default_hooks.logger.interval': 1,
    'default_hooks.lr.warmup_iters': 2,
    'default_hooks.lr.milestones': [1],
    'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
}


def logged(folder):
    """Losses of each update, as the log has them."""
    [path] = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if 'loss' in k or k == 'grad_norm'} for line in lines]


@pytest.mark.slow
def test_a_recipe_has_the_same_bits_on_1_2_and_3_processes(tmp_path, shapes):
    """Checkpoints, logs, and each rank's weights."""
    options = dict(option.split('=') for option in data_options(shapes)) | SMALL
    folders = {ranks: tmp_path / str(ranks) for ranks in (1, 2, 3)}
    runs = [
        dict(ranks=ranks, options=options | {'work_dir': str(folder)})
        for ranks, folder in folders.items()
    ]
    done = run_apart(exact_runs.main, str(RECIPE), runs)
    assert done.returncode == 0, done.stdout[-6000:]

    one, *others = (
        torch.load(folder / 'epoch_2.pth', weights_only=False) for folder in folders.values()
    )
    for other in others:
        for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
            assert_same_bits(one[part], other[part])
    paths = [path for folder in folders.values() for path in folder.glob('rank_*.pth')]
    weights = [torch.load(path) for path in paths]
    assert len(weights) == 1 + 2 + 3
    for other in weights[1:]:
        assert_same_bits(weights[0], other)
    one, two, three = map(logged, folders.values())
    assert len(one) == 4 and one == two == three


@pytest.mark.whole
def test_the_error_on_gradients_of_mask_rcnn_r50(shapes, command):
    """Against float64, relative L2; docs/global_batch.md has the figures."""
    done = command(
        *(sys.executable, 'tools/benchmarks/update.py', '--part', 'error', '--shapes', shapes)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith('| integers')]
    assert float(line.split('|')[2]) <= 1e-6
