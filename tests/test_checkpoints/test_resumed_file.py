"""The file that a run resumes from is the one that MMEngine's CheckpointHook would take."""

import os
import shutil
import time

import pytest
from helpers.small_training import load, log_of, make
from mmengine.hooks import Hook

from mmdet_largebatch import SettingError

KINDS = dict(ours='mmdet.AtomicCheckpointHook', stock='CheckpointHook')


def train(folder, epochs, kind='ours', hooks=(), resume=False, **checkpoint):
    """Train epochs of 2 updates each."""
    options = dict(val=False, preemption=False, lr_hook=dict(milestones=[], warmup_iters=0))
    checkpoint = dict(type=KINDS[kind], interval=1) | checkpoint
    options |= dict(epochs=epochs, checkpoint=checkpoint, hooks=hooks, resume=resume)
    make(folder, **options).train()


def resumed(folder, kind='ours', **checkpoint):
    """Resume for an epoch more than 4; return the path and the epochs of the checkpoint."""
    train(folder, 5, kind, resume=True, **checkpoint)
    log = log_of(folder)
    path = log.rsplit('Load checkpoint from ', 1)[-1].split()[0] if 'Load ' in log else None
    return path, log.rsplit('resumed epoch: ', 1)[-1].split(',')[0]


def copied(folder, copy):
    """Copy a work folder as a cloud's client does, the newest file first; move the original."""
    shutil.copytree(folder, copy)
    folder.rename(folder.with_name('moved'))
    for second, name in enumerate(['epoch_4', 'epoch_1', 'epoch_2', 'epoch_3']):
        os.utime(copy / f'{name}.pth', (1e9 + second, 1e9 + second))


@pytest.mark.parametrize('kind', KINDS)
def test_another_out_dir(tmp_path, kind):
    """The last run saved elsewhere. Earlier files in the work folder are not the newest."""
    run, disk = tmp_path / 'run', tmp_path / 'disk'
    train(run, 2, kind)
    train(run, 4, kind, resume=True, out_dir=str(disk))
    assert resumed(run, kind) == (str(disk / 'run/epoch_4.pth'), '4')


def test_another_out_dir_with_a_damaged_file(tmp_path):
    run, disk = tmp_path / 'run', tmp_path / 'disk'
    train(run, 4, out_dir=str(disk))
    (disk / 'run/epoch_4.pth').write_bytes(b'')
    assert resumed(run) == (str(disk / 'run/epoch_3.pth'), '3')


def test_a_folder_that_is_gone(tmp_path):
    """As a disk that is not mounted. MMEngine ends in a FileNotFoundError."""
    run, disk = tmp_path / 'run', tmp_path / 'disk'
    train(run, 1, out_dir=str(disk))
    disk.rename(tmp_path / 'away')
    with pytest.raises(SettingError) as raised:
        train(run, 2, resume=True)
    line = f'({disk}/run/epoch_1.pth: no such file, though last_checkpoint names it). Must have one'
    assert line in str(raised.value)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('pointer', [True, False])
def test_a_copied_folder(tmp_path, kind, pointer):
    """A run of either hook, continued with ours. The times of the files are those of the copy."""
    train(tmp_path / 'run', 4, kind)
    copied(tmp_path / 'run', tmp_path / 'copy')
    if not pointer:
        (tmp_path / 'copy/last_checkpoint').unlink()
    assert resumed(tmp_path / 'copy') == (str(tmp_path / 'copy/epoch_4.pth'), '4')
    assert 'Resume skips' not in log_of(tmp_path / 'copy')


def test_a_copy_of_a_folder_that_stands(tmp_path):
    """The original went on meanwhile: it is another run."""
    train(tmp_path / 'run', 4)
    shutil.copytree(tmp_path / 'run', tmp_path / 'copy')
    train(tmp_path / 'run', 5, resume=True)
    (tmp_path / 'copy/epoch_4.pth').write_bytes(b'')
    assert resumed(tmp_path / 'copy') == (str(tmp_path / 'copy/epoch_3.pth'), '3')


@pytest.mark.parametrize('kind', KINDS)
def test_a_run_that_was_started_over_elsewhere(tmp_path, kind):
    """The work folder has an older file of the same name."""
    train(tmp_path / 'run', 4, kind)
    train(tmp_path / 'run', 4, kind, out_dir=str(tmp_path / 'disk'))
    assert resumed(tmp_path / 'run', kind) == (str(tmp_path / 'disk/run/epoch_4.pth'), '4')


class SaveWeights(Hook):
    """Save the weights at each epoch's end, after the checkpoint hook."""

    priority = 'LOWEST'

    def after_train_epoch(self, runner):
        parts = dict(save_optimizer=False, save_param_scheduler=False)
        runner.save_checkpoint(runner.work_dir, 'last.pth', **parts)


@pytest.mark.parametrize('kind', KINDS)
def test_saves_of_a_users_hook(tmp_path, kind):
    train(tmp_path, 4, kind, hooks=[SaveWeights()])
    assert load(tmp_path / 'last.pth')['meta']['iter'] == 8
    assert resumed(tmp_path) == (str(tmp_path / 'epoch_4.pth'), '4')


def test_the_only_save_of_a_users_hook(tmp_path):
    train(tmp_path, 4, hooks=[SaveWeights()], interval=-1, save_last=False)
    assert resumed(tmp_path) == (str(tmp_path / 'last.pth'), '4')


def test_a_run_of_either_hook_in_turn(tmp_path):
    """The newest is MMEngine's, though it is not stamped."""
    for epochs, kind in ((2, 'ours'), (4, 'stock')):
        train(tmp_path, epochs, kind, resume=epochs > 2)
    assert resumed(tmp_path) == (str(tmp_path / 'epoch_4.pth'), '4')


def test_a_clock_that_was_set_back(tmp_path, monkeypatch):
    """As on another machine, whose clock is an hour behind."""
    options = dict(checkpoint=dict(interval=1), lr_hook=dict(milestones=[1]))
    make(tmp_path, epochs=2, **options).train()
    behind = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, 'time_ns', lambda: behind)
    make(tmp_path, epochs=3, resume=True, **options).train()
    make(tmp_path, epochs=4, resume=True, **options).train()
    assert 'resumed epoch: 3' in log_of(tmp_path)
