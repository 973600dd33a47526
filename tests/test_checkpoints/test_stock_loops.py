"""Our hooks and tools under MMEngine's own train loops, compared with stock trainings."""

import json

import pytest
import torch
from helpers.runs import assert_same, state, train

ATOMIC = dict(default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook')))
PREEMPTION = dict(default_hooks=dict(preemption=dict(type='PreemptionHook')))
# 5 updates an epoch; no evaluation, whose random draws do not matter here.
SHORT = dict(train_cfg=dict(max_epochs=2), val_dataloader=None, val_cfg=None, val_evaluator=None)


@pytest.fixture(scope='module', autouse=True)
def data(shapes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SHAPES', str(shapes))
        yield


EPOCHS, ITERATIONS = 'EpochBasedTrainLoop', 'IterBasedTrainLoop'
LOOPS = {
    EPOCHS: (SHORT,),
    ITERATIONS: (
        SHORT,
        dict(
            train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10),
            train_dataloader=dict(sampler=dict(type='InfiniteSampler')),
            default_hooks=dict(checkpoint=dict(by_epoch=False, interval=10)),
            log_processor=dict(by_epoch=False),
        ),
    ),
}
TWO_OPTIMIZERS = dict(
    model=dict(type='TwoOptimizers'),
    optim_wrapper=dict(_delete_=True, constructor='BackboneAndRest'),
)


def test_several_optimizers(tmp_path):
    """MMEngine's own hook and ours: the same training, and a resumed one with both optimizers."""
    runs = {}
    for name, ours in dict(stock={}, ours=ATOMIC).items():
        runs[name] = run = train(tmp_path / name, SHORT, TWO_OPTIMIZERS, ours)
        assert run.status == 0, run.output
        [record] = [json.loads(path.read_text()) for path in run.folder.glob('*/largebatch.json')]
        assert record['optimizer'] == 'SGD, AdamW' and record['ended']['how'] == 'done'
    assert_same(state(runs['stock'].last), state(runs['ours'].last))
    longer = dict(SHORT, train_cfg=dict(max_epochs=3))
    resumed = train(tmp_path / 'ours', longer, TWO_OPTIMIZERS, ATOMIC, arguments=['--resume'])
    assert resumed.status == 0, resumed.output
    # Both LRs at the end, by the milestones of tiny.py: x 0.5 after epochs 1 and 2.
    groups = [state['param_groups'][0] for state in resumed.last['optimizer'].values()]
    assert [group['lr'] for group in groups] == pytest.approx([0.02 / 4, 0.001 / 4])
    assert resumed.last['meta']['iter'] == 15


@pytest.fixture(scope='module')
def never_stopped(data, tmp_path_factory):
    """Stock trainings of 10 updates, by loop."""
    folder = tmp_path_factory.mktemp('never_stopped')
    return {name: train(folder / name, *parts) for name, parts in LOOPS.items()}


def lrs(run):
    """The logged LR of each update."""
    return {step: line['lr'] for (kind, step), line in run.logged.items() if kind == 'train'}


@pytest.mark.parametrize(
    ('loop', 'stop', 'saved', 'words'),
    [
        (EPOCHS, 7, 'epoch_1', 'cannot continue within an epoch; the newest checkpoint: {}'),
        (EPOCHS, 3, None, 'cannot continue within an epoch; the newest checkpoint: none yet.'),
        (ITERATIONS, 7, 'restart_7', 'update 7 is saved in {}'),
    ],
)
def test_preempted(tmp_path, never_stopped, loop, stop, saved, words):
    """Every update is learnt once. A loop with epochs goes on from its newest epoch."""
    parts = (*LOOPS[loop], ATOMIC, PREEMPTION)
    run = train(tmp_path / 'run', *parts, dict(custom_hooks=[dict(type='Stop', update=stop)]))
    assert run.status == 75, run.output
    assert run.files == ([saved] if saved else [])
    assert words.format(f'{run.folder}/{saved}.pth') in run.output
    if saved:
        resumed = train(tmp_path / 'run', *parts, arguments=['--resume'])
        assert resumed.status == 0, resumed.output
        assert resumed.last['meta']['iter'] == 10
        assert lrs(resumed) == lrs(never_stopped[loop])


def test_states_within_an_epoch(tmp_path):
    """None is saved by time, and one of MMEngine's own hook (by_epoch=False) is said on resume."""
    checkpoint = dict(every_minutes=1e-9, interval=-1, save_last=False)
    by_time = (SHORT, ATOMIC, PREEMPTION, dict(default_hooks=dict(checkpoint=checkpoint)))
    run = train(tmp_path / 'run', *by_time, dict(custom_hooks=[dict(type='Stop', update=7)]))
    assert run.files == ['restart_5']
    assert 'every_minutes=1e-09: the state is saved between epochs alone.' in run.output
    within = run.last
    within['meta']['iter'] = 7
    torch.save(within, run.folder / 'restart_5.pth')
    resumed = train(tmp_path / 'run', *by_time, arguments=['--resume'])
    words = 'of epoch 1, update 7, and an epoch has 5 updates: EpochBasedTrainLoop begins epoch 2'
    assert words in resumed.output
