"""SGD on Mask R-CNN at an LR that is far too high: stock MMDetection, and the divergence hook."""

import sys

import pytest
import torch
from helpers.common import EVERY_PROPOSAL, ROOT, data_options

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-sgd-1x_shapes.py'
OPTIONS = [
    *(f'{key}={value}'.replace(' ', '') for key, value in EVERY_PROPOSAL.items()),
    'train_dataloader.batch_size=2',
    'optim_wrapper.optimizer.lr=1000.0',
    'optim_wrapper.clip_grad=None',
    'train_cfg.max_epochs=2',
    'train_cfg.val_interval=9',
    'val_cfg=None',
    'val_dataloader=None',
    'val_evaluator=None',
    'default_hooks.logger.interval=1',
]
OURS = [
    'train_cfg.global_batch_size=4',
    'default_hooks.lr.warmup_iters=0',
    'default_hooks.lr.milestones=[]',
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=1',
]

STOCK = f"""
_base_ = '{ROOT / RECIPE}'
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)
default_hooks = dict(
    _delete_=True,
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook'),
)
"""


@pytest.fixture
def train(command, shapes, tmp_path):
    def run(config, *options):
        words = ('tools/train.py', config, '--work-dir', tmp_path / 'work', '--cfg-options')
        return command(sys.executable, *words, *data_options(shapes)[:2], *OPTIONS, *options)

    return run


def all_finite(path):
    weights = torch.load(path, weights_only=False)['state_dict'].values()
    return all(weight.isfinite().all() for weight in weights)


def test_stock_trains_on_nan_to_its_end(train, tmp_path):
    (tmp_path / 'stock.py').write_text(STOCK)
    done = train(tmp_path / 'stock.py')
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'Epoch(train) [2][10/10]' in done.stdout and 'loss: nan' in done.stdout
    assert not all_finite(tmp_path / 'work/epoch_2.pth')


def test_it_stops_at_the_first_bad_update_with_finite_weights(train, tmp_path):
    done = train(RECIPE, *OURS)
    assert done.returncode == 3, done.stderr[-3000:]
    last = done.stderr.splitlines()[-1]
    assert last.startswith('error: Diverged at update ') and 'LR 1000' in last
    update = int(last.split('at update ')[1].split(' of ')[0])
    assert 'nan' not in done.stdout.split('Diverged')[0].split('Epoch(train)', 1)[-1]
    # Saved after each update: the last is the one before the bad one.
    assert all_finite(tmp_path / f'work/iter_{update - 1}.pth')
    assert f'iter_{update - 1}.pth' in last
    assert not (tmp_path / f'work/iter_{update}.pth').exists()


def test_with_rollbacks_it_recovers_and_finishes(train, tmp_path):
    divergence = ('rollbacks=2', 'lr_factor=1e-6')
    options = [f'default_hooks.divergence.{setting}' for setting in divergence]
    # A checkpoint an epoch, so that the rollback goes back to the start, before any harm.
    done = train(RECIPE, *OURS[:-2], *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'Rollback 1 of 2: back to ' in done.stdout + done.stderr
    assert 'restart_0.pth, with the LR times 1e-06' in done.stdout + done.stderr
    assert 'Epoch(train) [2][5/5]' in done.stdout
    assert all_finite(tmp_path / 'work/epoch_2.pth')
