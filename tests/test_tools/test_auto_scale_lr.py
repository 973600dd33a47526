"""`train.py --auto-scale-lr`, as a user of MMDetection types it."""

import pytest
from helpers.runs import GLOBAL_BATCH, train

# 4 images in an update, and an LR of 0.02 that is meant for one.
BASE = dict(auto_scale_lr=dict(enable=False, base_batch_size=1))
# The warmup of the config begins at a tenth of the LR.
FIRST = 0.1


@pytest.fixture(autouse=True)
def data(shapes, monkeypatch):
    monkeypatch.setenv('SHAPES', str(shapes))


def first_lr(run):
    assert run.status == 0, run.output[-3000:]
    return run.logged['train', 1]['lr']


@pytest.mark.parametrize(('name', 'lr'), [('SGD', 0.08), ('AdamW', 0.04)])
def test_under_the_loop_by_the_rule_of_the_optimizer(tmp_path, name, lr):
    optimizer = dict(optim_wrapper=dict(optimizer=dict(_delete_=True, type=name, lr=0.02)))
    words = ('--auto-scale-lr', '--cfg-options', 'train_cfg.max_updates=1')
    run = train(tmp_path / 'work', GLOBAL_BATCH, BASE, optimizer, arguments=words)
    assert first_lr(run) == pytest.approx(FIRST * lr)
    rule = 'linear' if name == 'SGD' else 'sqrt'
    assert run.output.count(f'by the {rule} rule of {name}, from 1') == 1


def test_outside_the_loop_as_mmdetection(tmp_path):
    run = train(tmp_path / 'work', BASE, arguments=('--auto-scale-lr',))
    assert first_lr(run) == pytest.approx(FIRST * 0.08)
    assert 'LR is set based on batch size of 1 and the current batch size is 4' in run.output


@pytest.mark.parametrize('changes', [{}, dict(auto_scale_lr=dict(enable=False))])
def test_without_a_base_batch(tmp_path, changes):
    run = train(tmp_path / 'work', GLOBAL_BATCH, changes, arguments=('--auto-scale-lr',))
    assert run.status == 2
    [line] = run.errors
    assert 'Must be dict(base_batch_size=N), the batch of the LR' in line
