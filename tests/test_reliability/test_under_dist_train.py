"""Damaged checkpoints, full disks and bad updates, as a user of 2 ranks meets them."""

import os
import shutil
import subprocess

import pytest
import torch
from helpers.common import ROOT, data_options
from helpers.launched import OPTIONS, RECIPE

pytestmark = pytest.mark.multiprocess

# 5 updates of 4 pictures of 64 x 64, a checkpoint after each, no evaluation.
SMALL = [
    *(x for x in OPTIONS if not x.startswith('val_')),
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=-1',
    *(f'val_{part}=None' for part in ('cfg', 'dataloader', 'evaluator')),
    'train_cfg.max_epochs=1',
    'default_hooks.lr.milestones=[]',
]


@pytest.fixture(scope='module')
def train(command, shapes):
    def run(work, *options, arguments=(), recipe=RECIPE, **environment):
        words = ('tools/dist_train.sh', recipe, 2, '--work-dir', work, *arguments)
        options = (*data_options(shapes)[:2], *SMALL, *options)
        return command(*words, '--cfg-options', *options, **environment)

    return run


def errors(done):
    return [line for line in done.stderr.splitlines() if line.startswith('error: ')]


@pytest.fixture(scope='module')
def whole(tool, shapes, tmp_path_factory):
    """On 1 rank: the recipe adds gradients exactly, so that 2 ranks have the same bits."""
    work = tmp_path_factory.mktemp('whole') / 'work'
    words = ('train.py', RECIPE, '--work-dir', work, '--cfg-options')
    done = tool(*words, *data_options(shapes)[:2], *SMALL)
    assert done.returncode == 0, done.stderr[-3000:]
    return work


def damage(work):
    """Damage all checkpoints but the first, each in another way."""
    truncated, empty, flipped, replaced = (work / f'iter_{n}.pth' for n in (5, 4, 3, 2))
    os.truncate(truncated, truncated.stat().st_size // 2)
    empty.write_bytes(b'')
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    replaced.write_text('not a checkpoint\n')
    return [truncated, empty, flipped, replaced]


def test_damaged_checkpoints_are_passed_over_and_named(train, whole, tmp_path):
    """The first of five is valid: from it the run ends as the one that was never stopped."""
    work = tmp_path / 'work'
    shutil.copytree(whole, work)
    damaged = damage(work)
    done = train(work, arguments=['--resume'])
    assert done.returncode == 0, done.stderr[-3000:]
    for path in damaged:
        assert f'Resume skips {path}: ' in done.stdout, path
    assert 'resumed epoch: 0, iter: 1' in done.stdout
    ours, theirs = (
        torch.load(folder / 'iter_5.pth', weights_only=False)['state_dict']
        for folder in (work, whole)
    )
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_without_a_valid_checkpoint_nothing_is_started_over(train, whole, tmp_path):
    work = tmp_path / 'work'
    shutil.copytree(whole, work)
    damaged = damage(work)
    os.truncate(work / 'iter_1.pth', 1000)
    sizes = {path.name: path.stat().st_size for path in work.glob('*.pth')}
    done = train(work, arguments=['--resume'], MAX_RESTARTS='2')
    assert done.returncode == 2, done.stderr[-3000:]
    [line] = errors(done)
    assert f'work_dir={work}: it has no valid checkpoint' in line
    assert all(str(path) in line for path in damaged)
    assert {path.name: path.stat().st_size for path in work.glob('*.pth')} == sizes


def test_a_full_disk_loses_no_checkpoint(train, whole, tmp_path):
    """There is room for one checkpoint and a half; the training goes on to its end and says so."""
    if os.geteuid() != 0:
        pytest.skip('only root can mount a file system')
    disk = tmp_path / 'disk'
    disk.mkdir()
    room = (whole / 'iter_1.pth').stat().st_size * 3 // 2
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={room}', 'tmpfs', disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('this machine does not let root mount a file system')
    try:
        done = train(tmp_path / 'work', f'default_hooks.checkpoint.out_dir={disk}')
        assert done.returncode == 2, done.stderr[-3000:]
        [line] = errors(done)
        assert 'iter_5.pth could not be saved (No space left on device)' in line
        assert 'iter_2.pth could not be saved (No space left on device)' in done.stdout
        assert '[1][5/5]' in done.stdout
        saved = torch.load(disk / 'work/iter_1.pth', weights_only=False)['state_dict']
        expected = torch.load(whole / 'iter_1.pth', weights_only=False)['state_dict']
        assert all(saved[name].equal(expected[name]) for name in expected)
        assert [path.name for path in (disk / 'work').glob('*.pth')] == ['iter_1.pth']
    finally:
        subprocess.run(['umount', '-l', disk], check=True)


def test_a_divergence_stops_all_ranks_once(train, tmp_path):
    """MAX_RESTARTS does not repeat it; the weights before it are saved and finite."""
    done = train(
        tmp_path / 'work',
        'optim_wrapper.optimizer.lr=1000.0',
        'optim_wrapper.clip_grad=None',
        'default_hooks.lr.warmup_iters=0',
        recipe=str(ROOT / RECIPE).replace('-lamb-', '-sgd-'),
        MAX_RESTARTS='2',
    )
    assert done.returncode == 3, done.stderr[-3000:]
    [line] = errors(done)
    update = int(line.split('Diverged at update ')[1].split()[0])
    assert done.stdout.count(', 5 updates an epoch') == 1
    weights = torch.load(tmp_path / f'work/iter_{update - 1}.pth', weights_only=False)['state_dict']
    assert all(weight.isfinite().all() for weight in weights.values())
    assert not (tmp_path / f'work/iter_{update}.pth').exists()


def test_a_work_folder_that_cannot_be_written(train):
    done = train('/proc/work')
    assert done.returncode == 2, done.stderr[-3000:]
    [line] = errors(done)
    assert "Invalid work_dir='/proc/work'. Must be" in line
