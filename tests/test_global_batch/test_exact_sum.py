"""Sums of integers: the same bits on any number of ranks."""

import json
import sys

import pytest
import torch
from helpers.common import EVERY_PROPOSAL, PYTHONPATH, ROOT, data_options

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
    'default_hooks.lr.warmup_iters': 2,
    'default_hooks.lr.milestones': [1],
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'custom_hooks': [dict(type='EMAHook', momentum=0.1)],
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory, shapes, command):
    """Train one after the other; return for each the folder."""

    def run(epochs, *runs, **options):
        root = tmp_path_factory.mktemp('exact')
        wanted = []
        for number, (ranks, more) in enumerate(runs):
            every = dict(option.split('=') for option in data_options(shapes)) | SMALL
            every |= {name.replace('__', '.'): value for name, value in options.items()}
            every |= {'work_dir': f'{root}/{number}', 'train_cfg.max_epochs': epochs} | more(root)
            wanted.append(dict(ranks=ranks, options=every))
        settings = dict(config=str(RECIPE), runs=wanted)
        done = command(
            sys.executable,
            'tests/helpers/exact_runs.py',
            json.dumps(settings),
            PYTHONPATH=PYTHONPATH,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        return [root / str(number) for number in range(len(runs))]

    return run


def anew(root):
    return {}


def tensors(value, path=''):
    """Every tensor and number of a checkpoint's part, by its path."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in tensors(item, f'{path}/{key}').items()}
    return {path: value}


def assert_equal(mine, theirs):
    """Equal to the last bit."""
    mine, theirs = tensors(mine), tensors(theirs)
    assert mine.keys() == theirs.keys() and mine
    for path, value in mine.items():
        same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
        assert same(value, theirs[path]), path


def assert_same_bits(folders, epoch):
    """Weights, average, optimizer state and schedule of the checkpoint, and each rank's weights."""
    first, *others = (torch.load(f / f'epoch_{epoch}.pth', weights_only=False) for f in folders)
    for other in others:
        for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
            assert_equal(first[part], other[part])
    weights = [torch.load(path) for folder in folders for path in folder.glob('rank_*.pth')]
    for other in weights[1:]:
        assert_equal(weights[0], other)
    return len(weights)


def logged(folder):
    """Losses of each update, as the log has them."""
    [path] = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if 'loss' in k or k == 'grad_norm'} for line in lines]


def test_the_same_bits_on_1_2_and_3_processes(trained):
    folders = trained(2, (1, anew), (2, anew), (3, anew), default_hooks__logger__interval=1)
    assert assert_same_bits(folders, 2) == 1 + 2 + 3
    one, two, three = map(logged, folders)
    assert len(one) == 4 and one == two == three


@pytest.mark.whole
def test_the_same_bits_after_restarts_on_other_numbers_of_processes(trained):
    """20 updates: 1 -> 3 -> 2 processes in one work folder, beside 4 that are never stopped."""

    def part(epochs, resume=True):
        return lambda root: {
            'work_dir': f'{root}/parts',
            'resume': resume,
            'train_cfg.max_updates': 2 * epochs,
        }

    runs = [(1, part(3, False)), (3, part(7)), (2, part(10)), (4, anew), (1, anew)]
    folders = trained(10, *runs)
    assert assert_same_bits([folders[0].parent / 'parts', *folders[3:]], 10) == 3 + 4 + 1


@pytest.mark.whole
def test_the_error_on_gradients_of_mask_rcnn_r50(shapes, command):
    """Against float64, relative L2; docs/global_batch.md has the figures."""
    done = command(
        *(sys.executable, 'tools/benchmarks/exact_sum.py', '--part', 'error', '--shapes', shapes)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith('| integers')]
    assert float(line.split('|')[2]) <= 1e-6
