"""DivergenceHook stops before a bad update. Expected weights: those of runs without one."""

import json
import math
import re

import pytest
import torch
from helpers.cpu_amp import CPUAmp
from helpers.divergence import Bad, make

from mmdet_largebatch import DivergenceError, SettingError


def weights_after(tmp_path, updates, **more):
    runner = make(tmp_path / f'only{updates}', {}, epochs=updates, **more)
    runner.train()
    return runner.model.w.detach().clone()


def log_of(tmp_path):
    return ''.join(path.read_text() for path in tmp_path.glob('*/*.log'))


@pytest.mark.parametrize('value', [math.nan, math.inf])
@pytest.mark.parametrize(
    ('what', 'words'), [('loss', 'loss is '), ('gradient', 'finite, its gradient is not')]
)
def test_it_stops_before_the_step_and_says_all(tmp_path, what, words, value):
    runner = make(tmp_path / 'run', {}, Bad(6, what, value))
    with pytest.raises(DivergenceError) as raised:
        runner.train()
    message = str(raised.value)
    assert 'Diverged at update 6 of 8 (epoch 6)' in message and words in message
    assert 'LR 0.1, gradient norm ' in message
    assert f'last good checkpoint: {tmp_path}/run/epoch_4.pth' in message
    assert all(word in message for word in ('warmup_iters', 'optimizer.lr', 'LAMB'))
    assert runner.model.w.equal(weights_after(tmp_path, 5))


def test_what_it_says_stands_beside_the_log_of_that_start_alone(tmp_path):
    folder = tmp_path / 'run'
    with pytest.raises(DivergenceError) as raised:
        make(folder, {}, Bad(6)).train()
    [record] = folder.glob('*/largebatch.json')
    # One update an epoch.
    expected = dict(how='diverged', update=6, epoch=6, message=str(raised.value))
    assert json.loads(record.read_text())['ended'] == expected
    # Restarted within the same second: MMEngine names the folder by the second.
    record.parent.rename(folder / '20260101_000000')
    make(folder, {}, resume=True).train()
    records = [json.loads(path.read_text()) for path in sorted(folder.glob('*/largebatch.json'))]
    assert [one['ended']['how'] for one in records] == ['diverged', 'done']
    assert [one['begins_at'] for one in records] == [0, 4]


def test_without_it_the_weights_are_lost(tmp_path):
    """The test's own model does diverge without the hook."""
    runner = make(tmp_path / 'run', None, Bad(6))
    runner.train()
    assert runner.model.w.isnan().all()


def test_rolled_back_it_goes_on_with_a_lower_lr_and_finishes(tmp_path):
    runner = make(tmp_path / 'run', dict(rollbacks=1, lr_factor=0.25), Bad(6))
    runner.train()
    assert runner.iter == 8
    [record] = (tmp_path / 'run').glob('*/largebatch.json')
    record = json.loads(record.read_text())
    assert (record['ended']['how'], record['rollbacks']) == ('done', 1)
    assert 'back to' in log_of(tmp_path / 'run') and 'epoch_4.pth' in log_of(tmp_path / 'run')
    # By hand: 4 updates at LR 0.1, then 4 at 0.025, on all 12 points each.
    from helpers.regression import START, gradient

    w = START.double()
    for lr in [0.1] * 4 + [0.025] * 4:
        w = w - lr * gradient(w)[0]
    torch.testing.assert_close(runner.model.w.double(), w, rtol=1e-5, atol=1e-6)


def test_a_rollback_restores_the_moments(tmp_path):
    """Without them in the checkpoints it is refused; on resume from one without, they are saved."""
    momentum = dict(wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)))
    without = dict(checkpoint=dict(save_optimizer=False), **momentum)
    words = r'rollbacks=1\. Must be 0 with default_hooks\.checkpoint\.save_optimizer=False'
    with pytest.raises(SettingError, match=words):
        make(tmp_path / 'refused', dict(rollbacks=1), **without).train()
    runs = {}
    for name, bad in dict(bad=Bad(4), good=None).items():
        make(tmp_path / name, {}, epochs=2, **without).train()
        hook = dict(rollbacks=1, lr_factor=1.0)
        runs[name] = make(tmp_path / name, hook, bad, resume=True, **momentum)
        runs[name].train()
    assert 'Rollback 1 of 1' in log_of(tmp_path / 'bad')
    assert runs['bad'].model.w.equal(runs['good'].model.w)


def test_rollbacks_are_bounded_over_restarts_too(tmp_path):
    hook, folder = dict(rollbacks=2, lr_factor=0.5), tmp_path / 'run'
    with pytest.raises(DivergenceError):
        make(folder, hook, Bad(6, times=3)).train()
    assert re.findall(r'Rollback (\d) of 2', log_of(folder)) == ['1', '2']
    with pytest.raises(DivergenceError):
        make(folder, dict(rollbacks=0), Bad(5), resume=True).train()


def test_the_first_update_can_be_rolled_back(tmp_path):
    runner = make(tmp_path / 'run', dict(rollbacks=1), Bad(1))
    runner.train()
    assert runner.iter == 8 and runner.model.w.isfinite().all()


def test_a_resumed_run_keeps_the_lower_lr(tmp_path):
    hook, folder = dict(rollbacks=1, lr_factor=0.25), tmp_path / 'run'
    make(folder, hook, Bad(3), epochs=4).train()
    runner = make(folder, hook, epochs=8, resume=True)
    runner.train()
    assert runner.iter == 8
    assert runner.optim_wrapper.param_groups[0]['lr'] == pytest.approx(0.025)


def test_a_loss_far_above_its_mean(tmp_path):
    """No spike is reported in the first 50 updates; the same loss is reported later."""
    for update, found in ((49, False), (60, True)):
        folder = tmp_path / str(update)
        runner = make(folder, dict(spike=3.0), Bad(update, value=1000.0), epochs=60)
        if not found:
            runner.train()
            continue
        with pytest.raises(DivergenceError, match=r'loss is .* times its running mean'):
            runner.train()
    with pytest.raises(SettingError, match=r'spike=1\. Must be above 1'):
        make(tmp_path / 'bad', dict(spike=1))


def test_an_update_that_the_loss_scaler_skips_is_no_divergence(tmp_path):
    """At a scale of 2**127 the gradients overflow; each skipped update halves the scale."""
    wrapper = dict(type=CPUAmp, init_scale=2.0**127)
    runner = make(tmp_path / 'run', {}, wrapper=wrapper)
    runner.train()
    assert runner.iter == 8
    assert runner.optim_wrapper.loss_scaler.get_scale() < 2.0**127
    wrapper = dict(type=CPUAmp, init_scale=1.0)
    with pytest.raises(DivergenceError, match='its gradient is not'):
        make(tmp_path / 'at1', {}, Bad(3, 'gradient'), wrapper=wrapper).train()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(rollbacks=-1), r'rollbacks=-1\. Must be a whole number >= 0'),
        (dict(rollbacks=1.5), r'rollbacks=1\.5\. Must be a whole number'),
        (dict(lr_factor=0), r'lr_factor=0\. Must be in \(0, 1\]'),
        (dict(lr_factor=2), r'lr_factor=2\. Must be in \(0, 1\]'),
    ],
)
def test_bad_settings(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        make(tmp_path, settings)
