"""The first start of a training that is set to resume, by the tool, against runs never stopped."""

import re
from pathlib import Path

import pytest
import torch
from helpers.common import PYTHONPATH
from helpers.quadratic import config
from helpers.runs import assert_same, state

from mmdet_largebatch.checkpoints.first_start import RUN

STOCK = [
    'default_hooks.checkpoint.type=CheckpointHook',
    'default_hooks.preemption=None',
    'train_cfg.max_updates=None',
]
KINDS = {'ours': [], 'stock': STOCK}


def cut(epochs):
    return [f'train_cfg.max_epochs={epochs}', 'default_hooks.lr.milestones=[]']


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp('recipe') / 'quadratic.py'
    path.write_text(config())
    return path


@pytest.fixture
def train(tool, recipe):
    """Train some epochs of 30 updates each; return the finished process."""

    def run(folder, epochs, *arguments, options=(), config=recipe, status=0):
        words = ('train.py', config, '--work-dir', folder, *arguments)
        done = tool(*words, '--cfg-options', *cut(epochs), *options)
        assert done.returncode == status, done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope='module')
def donor(tool, recipe, tmp_path_factory):
    """A work folder with epoch_1.pth and epoch_2.pth."""
    folder = tmp_path_factory.mktemp('donor')
    tool('train.py', recipe, '--work-dir', folder, '--cfg-options', *cut(2)).check_returncode()
    return folder


def loaded(done):
    """The checkpoint that a training loaded."""
    return Path(re.findall(r'by local backend from path: (\S+)', done.stdout)[-1])


def saved(folder, epoch):
    return state(torch.load(folder / f'epoch_{epoch}.pth', weights_only=False))


@pytest.mark.parametrize('kind', KINDS)
def test_resume_loads_the_initial_weights_once(kind, train, donor, tmp_path):
    """As a run with load_from alone that is never stopped. The weights are then needed no more."""
    weights = tmp_path / 'weights.pth'
    weights.write_bytes((donor / 'epoch_2.pth').read_bytes())
    options = [*KINDS[kind], f'load_from={weights}']
    train(tmp_path / 'whole', 2, options=options)
    train(tmp_path / 'run', 1, '--resume', options=options)
    weights.unlink()
    done = train(tmp_path / 'run', 2, '--resume', options=options)
    assert loaded(done) == tmp_path / 'run/epoch_1.pth'
    for epoch in (1, 2):
        assert_same(saved(tmp_path / 'run', epoch), saved(tmp_path / 'whole', epoch))


@pytest.mark.parametrize('kind', KINDS)
def test_a_config_that_resumes_does_so_until_the_folder_has_a_checkpoint(
    kind, train, donor, tmp_path
):
    """With --resume added by a launcher, from the config's checkpoint, then from the newest."""
    options = [*KINDS[kind], f'load_from={donor}/epoch_1.pth', 'resume=True']
    assert loaded(train(tmp_path, 2, '--resume', options=options)) == donor / 'epoch_1.pth'
    assert loaded(train(tmp_path, 3, '--resume', options=options)) == tmp_path / 'epoch_2.pth'
    assert_same(saved(tmp_path, 2), saved(donor, 2))


@pytest.mark.parametrize('kind', KINDS)
def test_a_restart_of_a_run_from_a_checkpoint_resumes_from_its_newest(
    kind, train, donor, tmp_path, monkeypatch
):
    """The folder has later checkpoints of a run before, which the user goes back on."""
    options, old = KINDS[kind], tmp_path / 'old.pth'
    train(tmp_path / 'run', 3, options=options)
    old.write_bytes((tmp_path / 'run/epoch_1.pth').read_bytes())
    words = (tmp_path / 'run', 2, '--resume', old)
    monkeypatch.setenv(RUN, 'first')
    assert loaded(train(*words, options=options)) == old
    # The checkpoint may be gone by then, as with max_keep_ckpts.
    old.rename(tmp_path / 'away.pth')
    words = (tmp_path / 'run', 3, '--resume', old)
    assert loaded(train(*words, options=options)) == tmp_path / 'run/epoch_2.pth'
    # Another run of the same command begins where it says.
    monkeypatch.setenv(RUN, 'second')
    done = train(*words, options=options, status=2)
    assert f'error: --resume={old}: no such checkpoint.' in done.stderr
    (tmp_path / 'away.pth').rename(old)
    assert loaded(train(*words, options=options)) == old


def test_a_restart_before_the_first_save_begins_at_the_checkpoint_again(
    train, tmp_path, monkeypatch
):
    """A later checkpoint of the run before is left alone."""
    monkeypatch.setenv(RUN, 'run')
    train(tmp_path / 'run', 3)
    words = (tmp_path / 'run', 3, '--resume', tmp_path / 'run/epoch_1.pth')
    never = ['default_hooks.checkpoint.interval=-1', 'default_hooks.checkpoint.save_last=False']
    for _ in range(2):
        assert loaded(train(*words, options=never)) == words[-1]


CRASH = """
import os
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class CrashOnce(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        crashed = os.path.join(runner.work_dir, 'crashed')
        if runner.iter == 69 and runner.rank == 1 and not os.path.exists(crashed):
            open(crashed, 'w').close()
            os._exit(1)
"""


@pytest.mark.multiprocess
def test_max_restarts_with_a_checkpoint(donor, command, tmp_path):
    """A rank crashes at update 70. The launcher repeats its command, and update 61 is the next."""
    (tmp_path / 'crash_once.py').write_text(CRASH)
    text = config().replace("'helpers.quadratic'", "'helpers.quadratic', 'crash_once'")
    path, work = tmp_path / 'config.py', tmp_path / 'run'
    path.write_text(f"{text}custom_hooks = [dict(type='CrashOnce')]\n")
    words = ('tools/dist_train.sh', path, 2, '--work-dir', work, '--resume')
    done = command(
        *(*words, donor / 'epoch_1.pth', '--cfg-options', *cut(3)),
        MAX_RESTARTS='1',
        PYTHONPATH=f'{tmp_path}:{PYTHONPATH}',
    )
    assert done.returncode == 0, done.stderr[-3000:]
    resumed = re.findall(r'resumed epoch: \d, iter: (\d+)', done.stdout)
    assert resumed == ['30', '60']
    assert_same(saved(work, 2), saved(donor, 2))
