"""Hooks that swap weights, count or keep an average, in trainings stopped at every kind of moment.

Each training goes on from where it was stopped; what its last checkpoint holds is compared bit for
bit with that of a training never stopped.
"""

import signal

import pytest
import torch
from helpers.small_training import (
    Error,
    Evaluations,
    NanOnce,
    SwapsBeforeVal,
    Tell,
    load,
    make,
    same,
)
from mmengine.hooks import EarlyStoppingHook, EMAHook

PARTS = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'hooks')


@pytest.fixture(autouse=True)
def handlers():
    """Restore the signal handlers, which a preempted training leaves installed."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def hooks(kind):
    ema = {
        'EMA': dict(momentum=0.1),
        'EMA with buffers': dict(momentum=0.1, update_buffers=True),
        'annealed EMA': dict(ema_type='MomentumAnnealingEMA', gamma=3, interval=2),
        "mmdet's EMA": dict(ema_type='ExpMomentumEMA', momentum=0.1, update_buffers=True),
        'SWA from an update': dict(ema_type='StochasticWeightAverage', begin_iter=4),
        'SWA from an epoch': dict(
            ema_type='StochasticWeightAverage', begin_epoch=2, strict_load=True
        ),
    }
    if kind in ema:
        hook = EMAHook(**ema[kind])
        hook.priority = 49
        return [hook]
    return {
        'early stopping': [EarlyStoppingHook('error', rule='less', min_delta=9.0, patience=3)],
        'counting': [Evaluations()],
        'swapping in before_val': [SwapsBeforeVal()],
    }[kind]


KINDS = [
    *('EMA', 'EMA with buffers', 'annealed EMA', "mmdet's EMA"),
    *('SWA from an update', 'SWA from an epoch'),
    *('early stopping', 'counting', 'swapping in before_val'),
]
IN_SHORT = ('annealed EMA', "mmdet's EMA", 'early stopping', 'counting', 'swapping in before_val')
ROWS = [
    pytest.param(kind, marks=[] if kind in IN_SHORT else pytest.mark.whole, id=kind)
    for kind in KINDS
]


def last(folder):
    """Load the newest checkpoint."""
    return max(map(load, folder.glob('[er]*.pth')), key=lambda content: content['meta']['iter'])


def stop_in_an_epoch(folder, kind):
    with pytest.raises(SystemExit) as ended:
        make(folder, [*hooks(kind), Tell(update=3)]).train()
    assert ended.value.code == 75
    assert load(folder / 'restart_3.pth')['meta']['iter'] == 3


def stop_in_an_evaluation(folder, kind):
    """Of epoch 1, which the interval does not save."""
    with pytest.raises(SystemExit) as ended:
        make(folder, [*hooks(kind), Tell(in_evaluation=2)]).train()
    assert ended.value.code == 75
    assert load(folder / 'restart_2.pth')['meta']['iter'] == 2


def cut(folder, kind):
    """Within epoch 2, with an evaluation that the whole training does not have."""
    make(folder, hooks(kind), train_cfg=dict(max_updates=3)).train()


def cut_without_preemption(folder, kind):
    make(folder, hooks(kind), train_cfg=dict(max_updates=3), preemption=False).train()


STOPS = [stop_in_an_epoch, stop_in_an_evaluation, cut, cut_without_preemption]


@pytest.fixture(scope='module')
def never_stopped(tmp_path_factory):
    contents = {}

    def of(kind):
        if kind not in contents:
            folder = tmp_path_factory.mktemp('never_stopped')
            make(folder, hooks(kind)).train()
            contents[kind] = last(folder)
        return contents[kind]

    return of


def assert_same(folder, expected):
    found = last(folder)
    assert found['meta']['iter'] == expected['meta']['iter']
    for part in PARTS:
        assert same(found.get(part), expected.get(part)), part


@pytest.mark.parametrize('stop', STOPS, ids=lambda stop: stop.__name__)
@pytest.mark.parametrize('kind', ROWS)
def test_stopped_and_resumed(tmp_path, never_stopped, kind, stop):
    stop(tmp_path, kind)
    make(tmp_path, hooks(kind), resume=True).train()
    assert_same(tmp_path, never_stopped(kind))


@pytest.mark.parametrize('update', [1, 4, pytest.param(5, marks=pytest.mark.whole), 6])
@pytest.mark.parametrize('kind', ROWS)
def test_rolled_back(tmp_path, never_stopped, kind, update):
    """To the state before update 1, to that before an evaluation, and within an epoch."""
    divergence = dict(rollbacks=1, lr_factor=1.0)
    runner = make(tmp_path, [*hooks(kind), NanOnce(update)], divergence=divergence)
    runner.train()
    assert runner.message_hub.get_info('divergence_rollbacks') == 1
    assert_same(tmp_path, never_stopped(kind))


def test_the_kinds_tell_them_apart(never_stopped):
    """The test's own hooks: each changes what a training comes to, and averages are averages."""
    plain = never_stopped('swapping in before_val')
    assert not same(plain['state_dict'], never_stopped('counting')['state_dict'])
    for kind in KINDS[:6]:
        content = never_stopped(kind)
        raw = {name: content['ema_state_dict'][f'module.{name}'] for name in plain['state_dict']}
        assert same(raw, dict(plain['state_dict'])) and not same(raw, dict(content['state_dict']))
    assert never_stopped('early stopping')['hooks']['EarlyStoppingHook'][0]['wait_count'] > 0


@pytest.mark.parametrize('preemption', [True, False])
@pytest.mark.parametrize('val_begin', [1, 99])
def test_the_last_state_is_in_a_checkpoint(tmp_path, val_begin, preemption):
    """Cut within an epoch or at its end, with an evaluation or without."""
    for updates in (1, 2, 3):
        folder = tmp_path / str(updates)
        cfg = dict(max_updates=updates, val_begin=val_begin)
        runner = make(folder, train_cfg=cfg, preemption=preemption)
        runner.train()
        assert same(dict(last(folder)['state_dict']), dict(runner.model.state_dict()))
        assert last(folder)['meta']['iter'] == updates
    never = dict(save_last=False, interval=99)
    make(tmp_path / 'none', train_cfg=cfg, preemption=False, checkpoint=never).train()
    assert not list((tmp_path / 'none').glob('*.pth'))


def test_early_stopped_twice(tmp_path, monkeypatch):
    """Stopped after 3 evaluations: the last state is saved, and a resumed run ends at once."""

    def stop():
        return [EarlyStoppingHook('error', rule='less', min_delta=0.0, patience=2)]

    monkeypatch.setattr(Error, 'scripted', [1.0, 2.0, 3.0, 4.0])
    runner = make(tmp_path, stop(), epochs=9)
    runner.train()
    assert runner.iter == 6 and last(tmp_path)['meta']['iter'] == 6
    runner = make(tmp_path, stop(), epochs=9, resume=True)
    runner.train()
    assert runner.iter == 6


def test_the_best_of_an_evaluation_is_saved_with_the_state_before_it(tmp_path, monkeypatch):
    """The epoch's checkpoint is saved again with the path of the best one. A resumed run repeats
    the evaluation, and a hook counts it once."""
    monkeypatch.setattr(Error, 'scripted', [1.0, 0.5, 2.0, 0.5, 2.0, 2.0, 2.0])
    best = dict(save_best='error', rule='less')
    lr = dict(milestones=[1])
    make(tmp_path, [Evaluations()], checkpoint=best, epochs=2, lr_hook=lr).train()
    content = load(tmp_path / 'epoch_2.pth')
    assert content['hooks']['Evaluations'] == [dict(count=1)]
    assert content['message_hub']['runtime_info']['best_score'] == 0.5
    monkeypatch.setattr(Error, 'scripted', [0.5, 2.0, 2.0])
    make(tmp_path, [Evaluations()], checkpoint=best, resume=True, lr_hook=lr).train()
    assert load(tmp_path / 'epoch_4.pth')['hooks']['Evaluations'] == [dict(count=3)]
    assert [path.name for path in tmp_path.glob('best_*')] == ['best_error_epoch_2.pth']


def test_the_best_at_a_cut_does_not_take_the_name_of_the_epoch_before(tmp_path, monkeypatch):
    monkeypatch.setattr(Error, 'scripted', [3.0, 2.0, 1.0])
    checkpoint = dict(save_best='error', rule='less', interval=1)
    make(tmp_path, checkpoint=checkpoint, train_cfg=dict(max_updates=3)).train()
    assert load(tmp_path / 'epoch_1.pth')['meta']['iter'] == 2
    assert load(tmp_path / 'restart_3.pth')['meta']['iter'] == 3
    [best] = tmp_path.glob('best_*')
    assert load(best)['meta']['iter'] == 3


def test_a_switch_of_the_pipeline_is_undone(tmp_path):
    """Rolled back from epoch 4 to epoch 2: the hook switches again at epoch 3."""
    seen = []

    class Switch(SwapsBeforeVal):
        _has_switched = False

        def before_val(self, runner):
            pass

        after_val = before_val

        def before_train_epoch(self, runner):
            if runner.epoch >= 2 and not self._has_switched:
                runner.train_dataloader.dataset.pipeline = 'late'
                self._has_switched = True
            seen.append((runner.epoch, runner.train_dataloader.dataset.pipeline))

    runner = make(
        tmp_path,
        [Switch(), NanOnce(7)],
        divergence=dict(rollbacks=1),
        checkpoint=dict(interval=1, by_epoch=True, save_begin=2),
        preemption=False,
        epochs=5,
    )
    runner.train_loop.dataloader.dataset.pipeline = 'early'
    runner.train()
    late = [(2, 'late'), (3, 'late')]
    assert seen[:4] == [(0, 'early'), (1, 'early'), *late]
    # To the newest checkpoint.
    again = seen[4][0]
    assert seen[4:] == [(epoch, 'late' if epoch >= 2 else 'early') for epoch in range(again, 5)]


def test_what_a_loader_does_not_know_is_not_saved(tmp_path):
    class Odd(Evaluations):
        def state_dict(self):
            return dict(count=self.count, odd=torch.nn.Identity())

    make(tmp_path, [Odd()], epochs=2, lr_hook=dict(milestones=[1])).train()
    assert load(tmp_path / 'epoch_2.pth')['hooks'] == dict(Odd=[None])
    # Restart files hold the optimizer even with `save_optimizer=False`.
    folder = tmp_path / 'weights'
    make(folder, checkpoint=dict(save_optimizer=False), train_cfg=dict(max_updates=3)).train()
    assert 'optimizer' in load(folder / 'restart_3.pth')
