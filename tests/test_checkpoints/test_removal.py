"""AtomicCheckpointHook removes the outdated checkpoints of its own run, and no others."""

from pathlib import Path

import pytest
from helpers.small_training import Error, load, log_of, make
from mmengine.hooks import Hook

PLAIN = dict(val=False, preemption=False)


def names(folder):
    return sorted(path.stem for path in folder.glob('*.pth'))


def test_one_name_for_all_checkpoints(tmp_path):
    """It stands, as with MMEngine's hook, also as a run resumes with fewer to keep."""
    checkpoint = dict(interval=1, filename_tmpl='latest.pth', max_keep_ckpts=2)
    stock = dict(type='CheckpointHook')
    for folder, kind in dict(stock=stock, ours={}).items():
        make(tmp_path / folder, checkpoint=checkpoint | kind, **PLAIN).train()
        assert names(tmp_path / folder) == ['latest']
    fewer = checkpoint | dict(max_keep_ckpts=1)
    make(tmp_path / 'ours', checkpoint=fewer, resume=True, **PLAIN).train()
    assert 'resumed epoch: 4, iter: 8' in log_of(tmp_path / 'ours')
    assert load(tmp_path / 'ours/latest.pth')['meta']['iter'] == 8


class Killed(Hook):
    """Stands for a kill after update 9."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 9:
            raise KeyboardInterrupt


def test_fewer_to_keep_on_resume(tmp_path):
    """The surplus is removed once a newer checkpoint stands."""
    options = dict(PLAIN, epochs=6)
    checkpoint = dict(interval=1, max_keep_ckpts=3)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, hooks=[Killed()], checkpoint=checkpoint, **options).train()
    assert names(tmp_path) == ['epoch_2', 'epoch_3', 'epoch_4']
    checkpoint['max_keep_ckpts'] = 1
    make(tmp_path, checkpoint=checkpoint, resume=True, **options).train()
    assert names(tmp_path) == ['epoch_6']


def test_two_hooks_over_a_restart(tmp_path):
    """Each keeps as many as in a run that was never stopped."""
    options = dict(PLAIN, epochs=6, checkpoint=dict(interval=1, max_keep_ckpts=2))
    second = dict(type='mmdet.AtomicCheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=1)
    make(tmp_path / 'whole', hooks=[second], **options).train()
    run = tmp_path / 'run'
    with pytest.raises(KeyboardInterrupt):
        make(run, hooks=[second, Killed()], **options).train()
    make(run, hooks=[second], resume=True, **options).train()
    assert names(run) == names(tmp_path / 'whole') == ['epoch_5', 'epoch_6', 'iter_12']


def test_resumed_in_another_folder(tmp_path, monkeypatch):
    """The resumed run removes no file of the earlier run, nor of another run in its folder."""
    monkeypatch.setattr(Error, 'scripted', [0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    checkpoint = dict(interval=1, save_best='error', rule='less', max_keep_ckpts=2)
    options = dict(preemption=False, checkpoint=checkpoint)
    first, second = tmp_path / 'first', tmp_path / 'second'
    make(first, epochs=2, lr_hook=dict(milestones=[1]), **options).train()
    before = names(first)
    assert before == ['best_error_epoch_2', 'epoch_1', 'epoch_2']
    second.mkdir()
    (second / 'epoch_1.pth').touch()
    load_from = str(first / 'epoch_2.pth')
    make(second, resume=True, load_from=load_from, **options).train()
    assert names(first) == before
    assert names(second) == ['best_error_epoch_4', 'epoch_1', 'epoch_3', 'epoch_4']
    # The same folder by another path.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Error, 'scripted', [0.7, 0.2])
    make(Path('first'), epochs=3, lr_hook=dict(milestones=[1]), resume=True, **options).train()
    assert names(first) == ['best_error_epoch_3', 'epoch_2', 'epoch_3']
