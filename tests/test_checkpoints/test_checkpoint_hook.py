"""AtomicCheckpointHook in trainings: files kept, times of saves, and faults."""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from helpers import small_training
from helpers.divergence import Bad, make
from mmengine.fileio import FileClient, LocalBackend, io
from mmengine.fileio.backends import registry_utils
from mmengine.hooks import Hook

from mmdet_largebatch import SettingError


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def log_of(folder):
    return ''.join(path.read_text() for path in folder.glob('*/*.log'))


def test_max_keep_ckpts_and_the_pointer(tmp_path):
    make(tmp_path, {}, checkpoint=dict(max_keep_ckpts=2), epochs=8).train()
    assert names(tmp_path) == ['epoch_6.pth', 'epoch_8.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_8.pth')
    make(tmp_path, {}, checkpoint=dict(max_keep_ckpts=2), epochs=10, resume=True).train()
    assert names(tmp_path) == ['epoch_10.pth', 'epoch_8.pth']


def test_every_minutes(tmp_path):
    """With 1e-9 minutes the state is saved after every update. The next checkpoint of the interval
    replaces the restart file."""
    make(tmp_path, {}, checkpoint=dict(every_minutes=1e-9), epochs=5).train()
    assert names(tmp_path) == ['epoch_2.pth', 'epoch_4.pth', 'epoch_5.pth']
    make(tmp_path / 'b', {}, checkpoint=dict(every_minutes=60), epochs=3).train()
    assert names(tmp_path / 'b') == ['epoch_2.pth', 'epoch_3.pth']
    with pytest.raises(SettingError, match=r'checkpoint\.every_minutes=0\. Must be above 0'):
        make(tmp_path / 'c', {}, checkpoint=dict(every_minutes=0))


class Bucket(LocalBackend):
    """An object store: a folder whose files have addresses."""

    root: Path

    def _path(self, address):
        return str(self.root / str(address).split('://')[-1])

    def get(self, filepath):
        return super().get(self._path(filepath))

    def put(self, obj, filepath):
        super().put(obj, self._path(filepath))

    def isfile(self, filepath):
        return super().isfile(self._path(filepath))

    def remove(self, filepath):
        super().remove(self._path(filepath))


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The store of s3:// addresses, for which MMEngine wants a client that is not public."""
    Bucket.root = tmp_path / 'bucket'
    for registry in (registry_utils.backends, FileClient._backends):
        monkeypatch.setitem(registry, 'petrel', Bucket)
    for registry in (registry_utils.prefix_to_backends, FileClient._prefix_to_backends):
        monkeypatch.setitem(registry, 's3', Bucket)
    monkeypatch.setattr(FileClient, '_instances', {})
    monkeypatch.setattr(io, 'backend_instances', {})
    return Bucket.root


@pytest.mark.parametrize(
    ('store', 'folder'),
    [
        (dict(out_dir='s3://some'), 'bucket/some/run'),
        (dict(file_client_args=dict(backend='disk')), 'run'),
    ],
)
def test_other_file_backends(tmp_path, bucket, store, folder):
    """A run resumes from its last save, and a restart file is removed by the next save."""
    whole = make(tmp_path / 'whole', {}, epochs=5)
    whole.train()
    checkpoint = dict(store, every_minutes=1e-9, save_last=False)
    make(tmp_path / 'run', {}, checkpoint=checkpoint, epochs=3).train()
    assert names(tmp_path / folder) == ['epoch_2.pth', 'restart_3.pth']
    assert 's3' not in str(store) or not names(tmp_path / 'run')
    runner = make(tmp_path / 'run', {}, checkpoint=checkpoint, epochs=5, resume=True)
    runner.train()
    assert 'resumed epoch: 2, iter: 3' in log_of(tmp_path / 'run')
    assert runner.model.w.equal(whole.model.w)
    assert names(tmp_path / folder) == ['epoch_2.pth', 'epoch_4.pth', 'restart_5.pth']


def test_runs_of_one_name_that_share_out_dir(tmp_path):
    """As with MMEngine's own --resume, a run takes over no checkpoint but its own."""
    checkpoint = dict(out_dir=str(tmp_path / 'disk'))
    make(tmp_path / 'a/run', {}, checkpoint=checkpoint, epochs=4).train()
    make(tmp_path / 'b/run', {}, checkpoint=checkpoint, epochs=3, resume=True).train()
    assert 'has no checkpoint: the training begins at update 0' in log_of(tmp_path / 'b/run')
    make(tmp_path / 'b/run', {}, checkpoint=checkpoint, epochs=5, resume=True).train()
    assert 'resumed epoch: 3, iter: 3' in log_of(tmp_path / 'b/run')


def test_a_second_hook(tmp_path):
    """It removes no restart file that a rollback of the first one needs."""
    whole = make(tmp_path / 'whole', {})
    whole.train()
    runner = make(tmp_path / 'run', dict(rollbacks=1, lr_factor=1.0), Bad(2))
    second = dict(type='mmdet.AtomicCheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=1)
    runner.register_hook(second)
    runner.train()
    assert 'Rollback 1 of 1: back to' in log_of(tmp_path / 'run')
    assert runner.model.w.equal(whole.model.w)
    epochs = [f'epoch_{epoch}.pth' for epoch in (2, 4, 6, 8)]
    assert names(tmp_path / 'run') == [*epochs, 'iter_8.pth']


def test_parts_that_are_not_to_be_saved(tmp_path):
    """PreemptionHook saves all before an evaluation; the best score has the epoch saved again."""
    parts = dict(save_optimizer=False, save_param_scheduler=False)
    checkpoint = dict(parts, interval=1, save_best='error', rule='less')
    lr_hook = dict(warmup_iters=0, milestones=[])
    small_training.make(tmp_path, checkpoint=checkpoint, epochs=1, lr_hook=lr_hook).train()
    assert names(tmp_path) == ['best_error_epoch_1.pth', 'epoch_1.pth']
    content = small_training.load(tmp_path / 'epoch_1.pth')
    assert not {'optimizer', 'param_schedulers'} & set(content)
    assert content['message_hub']['runtime_info']['best_ckpt'].endswith('best_error_epoch_1.pth')


def test_a_hook_that_saves_its_state_in_its_own_way(tmp_path):
    """Its methods of these names take other arguments. They are not called, as by MMEngine."""

    class Own(Hook):
        loaded = None

        def state_dict(self, runner):
            return dict(update=runner.iter)

        def load_state_dict(self, runner, state):
            self.loaded = state

        def before_save_checkpoint(self, runner, checkpoint):
            checkpoint['own'] = self.state_dict(runner)

        def after_load_checkpoint(self, runner, checkpoint):
            self.load_state_dict(runner, checkpoint['own'])

    make(tmp_path, {}, Own(), epochs=2).train()
    own = Own()
    make(tmp_path, {}, own, epochs=4, resume=True).train()
    assert own.loaded == dict(update=2)
    assert 'Resume: ' not in log_of(tmp_path)


def test_resumed_past_a_broken_checkpoint(tmp_path):
    whole = make(tmp_path / 'whole', {}, epochs=6)
    whole.train()
    make(tmp_path / 'run', {}, epochs=4).train()
    broken = tmp_path / 'run/epoch_4.pth'
    broken.write_bytes(broken.read_bytes()[:500])
    runner = make(tmp_path / 'run', {}, epochs=6, resume=True)
    runner.train()
    assert f'Resume skips {broken}: it cannot be read' in log_of(tmp_path / 'run')
    assert runner.model.w.equal(whole.model.w)


def test_no_valid_checkpoint(tmp_path):
    make(tmp_path, {}, epochs=2).train()
    (tmp_path / 'epoch_2.pth').write_bytes(b'')
    with pytest.raises(SettingError, match=r'it has no valid checkpoint \(.*it is empty'):
        make(tmp_path, {}, epochs=4, resume=True).train()
    given = str(tmp_path / 'epoch_2.pth')
    with pytest.raises(SettingError, match=r'load_from=.*epoch_2\.pth: it is empty'):
        make(tmp_path, {}, epochs=4, resume=True, load_from=given).train()
    assert names(tmp_path) == ['epoch_2.pth']


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip('only root can mount a file system')
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('this machine does not let root mount a file system')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


def test_a_full_disk_during_a_save(tmp_path, small_disk):
    """The disk is full after the first save: the training ends, its first checkpoint is valid."""
    checkpoint = dict(out_dir=str(small_disk))
    make(tmp_path / 'run', {}, checkpoint=checkpoint, epochs=2).train()
    good = small_disk / 'run/epoch_2.pth'
    content = good.read_bytes()
    free = os.statvfs(small_disk)
    room = free.f_bavail * free.f_frsize
    (small_disk / 'filler').write_bytes(b'0' * (room - room % 4096 - 4096))
    runner = make(tmp_path / 'run', {}, checkpoint=checkpoint, epochs=6, resume=True)
    with pytest.raises(SettingError, match=r'epoch_6\.pth could not be saved \(No space left'):
        runner.train()
    assert 'epoch_4.pth could not be saved (No space left on device)' in log_of(tmp_path / 'run')
    assert runner.iter == 6
    assert good.read_bytes() == content
    assert sorted(path.name for path in good.parent.iterdir()) == ['epoch_2.pth']
    assert (tmp_path / 'run/last_checkpoint').read_text() == str(good)
    # With room again, the run resumes from it.
    (small_disk / 'filler').unlink()
    runner = make(tmp_path / 'run', {}, checkpoint=checkpoint, epochs=6, resume=True)
    runner.train()
    assert torch.load(good.with_name('epoch_6.pth'), weights_only=False)['meta']['iter'] == 6
