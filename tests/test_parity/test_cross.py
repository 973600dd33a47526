"""Stopped in any way and gone on with, a training ends bit for bit as the one never stopped.

Each feature that keeps a state of its own is trained once without a stop, and once for every way in
which a training ends early or goes back. Weights, averaged weights, optimizer, schedules, the log,
the best checkpoint and the epoch of an early stop are the same.
"""

import itertools
from multiprocessing import get_context

import pytest
from helpers.parity_table import EMA, MIX, MIXED, SCORE, WARMUP
from helpers.runs import GLOBAL_BATCH, assert_same, merged, state, train, train_as_process

pytestmark = pytest.mark.slow

# Two micro-batches of two pictures an update, five updates an epoch, four epochs. A checkpoint
# every second epoch, so that a rollback goes back over an evaluation.
BASE = merged(
    GLOBAL_BATCH,
    dict(
        train_cfg=dict(max_epochs=4),
        train_dataloader=dict(batch_size=2),
        default_hooks=dict(checkpoint=dict(interval=2)),
    ),
)
LR = dict(
    param_scheduler=None,
    default_hooks=dict(lr=dict(type='WarmupStepLRHook', warmup_iters=3, milestones=[2])),
)


def optimizer(**options):
    return dict(optim_wrapper=dict(optimizer=dict(options, _delete_=True)))


def schedule(*schedulers, **changes):
    return dict(param_scheduler=list(schedulers), **changes)


def hooks(*hooks, **changes):
    return dict(custom_hooks=list(hooks), **changes)


def best(**options):
    return dict(default_hooks=dict(checkpoint=options))


BY_BOTH = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=12),
    dict(type='MultiStepLR', by_epoch=True, milestones=[1, 3], gamma=0.5),
]
PLATEAU = dict(type='ReduceOnPlateauLR', patience=1, factor=0.5, threshold=0.5, **SCORE)
BEST = dict(save_best='mean_score', rule='less', max_keep_ckpts=1, interval=1)
# The score rises to the second evaluation: stopped at the fourth of six.
EARLY = dict(
    train_cfg=dict(max_epochs=6),
    val_evaluator=[dict(type='Given', values=[0.1, 0.5, 0.5, 0.5, 0.5, 0.5])],
)
EARLY_HOOK = dict(
    type='EarlyStoppingHook', monitor='given', rule='greater', patience=2, min_delta=0.01
)
LAMB = dict(type='LAMB', lr=0.005, weight_decay=1e-4)
WORKERS = dict(num_workers=2, persistent_workers=True)

FEATURES = {
    'SGD': {},
    'LAMB': optimizer(**LAMB),
    'LARS': optimizer(type='LARS', lr=0.1, momentum=0.9, weight_decay=5e-4),
    'AdamW': optimizer(type='AdamW', lr=0.001),
    'EMA': hooks(dict(EMA, update_buffers=True)),
    'EMA without buffers': hooks(EMA),
    'ExpMomentumEMA': hooks(dict(EMA, ema_type='ExpMomentumEMA', update_buffers=True)),
    'StochasticWeightAverage': hooks(
        dict(type='EMAHook', ema_type='StochasticWeightAverage', interval=2)
    ),
    'EMA from an epoch on': hooks(dict(EMA, begin_epoch=3)),
    'early stopping': hooks(EARLY_HOOK, **EARLY),
    'early stopping and the best': merged(
        hooks(EARLY_HOOK, **EARLY),
        best(save_best='given', rule='greater', interval=1),
    ),
    'by iteration and by epoch': schedule(*BY_BOTH),
    'cosine': schedule(
        dict(type='CosineAnnealingLR', T_max=4, by_epoch=True, convert_to_iter_based=True)
    ),
    'one cycle': schedule(dict(type='OneCycleLR', eta_max=0.03, total_steps=20, by_epoch=False)),
    'plateau': schedule(WARMUP, PLATEAU),
    'plateau and the best': merged(schedule(WARMUP, PLATEAU), best(**BEST)),
    'momentum': schedule(
        WARMUP,
        dict(type='CosineAnnealingMomentum', T_max=4, by_epoch=True, convert_to_iter_based=True),
    ),
    'the best': best(**BEST),
    'the best of two, rising': best(
        save_best=['mean_score', 'coco/bbox_mAP'], rule=['greater', 'less'], interval=1
    ),
    'kept checkpoints in updates': best(by_epoch=False, interval=3, max_keep_ckpts=2),
    'unfreezing': hooks(
        dict(type='UnfreezeBackbone', unfreeze_epoch=2),
        model=dict(backbone=dict(frozen_stages=1)),
    ),
    'unfreezing, merged groups': hooks(
        dict(type='UnfreezeBackbone', unfreeze_epoch=2),
        model=dict(backbone=dict(frozen_stages=1)),
        optim_wrapper=dict(constructor='MergedGroupsConstructor'),
    ),
    'own train_step': dict(model=dict(type='OwnStep')),
    'mosaic with workers': dict(train_dataloader=dict(WORKERS, dataset=dict(MIXED, _delete_=True))),
    'mosaic taken out, with workers': hooks(
        dict(type='PipelineSwitchHook', switch_epoch=2, switch_pipeline=MIX[1:]),
        train_dataloader=dict(WORKERS, dataset=dict(MIXED, _delete_=True)),
    ),
    'all at once': merged(
        hooks(dict(EMA, update_buffers=True)),
        optimizer(**LAMB),
        schedule(*BY_BOTH),
        best(**BEST),
    ),
}
STOPS = {
    'in an epoch': dict(update=12),
    'at the end of an epoch': dict(update=15),
    'in an evaluation': dict(evaluation=3),
    'in the last evaluation': dict(evaluation=4),
}
KILLS = {'killed': dict(update=18), 'killed in an evaluation': dict(evaluation=3)}
CUTS = {'cut in an epoch': 12, 'cut at the end of an epoch': 15}


def parts(feature):
    """The config of a feature, with WarmupStepLRHook where it has no schedule of its own."""
    changes = FEATURES[feature]
    return [BASE, changes] if 'param_scheduler' in changes else [BASE, LR, changes]


def stop(**at):
    return dict(default_hooks=dict(stop=dict(type='Stop', **at)))


@pytest.fixture(scope='module')
def never_stopped(tmp_path_factory):
    """The run of a feature that nothing stops, trained once."""
    runs = {}

    def get(name, *others):
        key = name, repr(others)
        if key not in runs:
            folder = tmp_path_factory.mktemp('never_stopped') / 'work'
            runs[key] = train(folder, *parts(name), *others)
            assert runs[key].status == 0, runs[key].output[-3000:]
        return runs[key]

    return get


def assert_ends_as(run, reference):
    assert run.status == 0, run.output[-3000:]
    a, b = reference.last, run.last
    assert_same(state(a), state(b))
    infos = [
        {
            key: value
            for key, value in checkpoint['message_hub']['runtime_info'].items()
            if key.startswith(('best_score', 'keep_ckpt'))
        }
        for checkpoint in (a, b)
    ]
    assert_same(*infos)
    assert reference.files == run.files
    for path in reference.folder.glob('best_*.pth'):
        assert_same(state(reference.checkpoint(path.name)), state(run.checkpoint(path.name)))
    assert_same(reference.logged, run.logged)


SHORT = {
    ('all at once', 'in an epoch'),
    ('all at once', 'in an evaluation'),
    ('all at once', 'cut in an epoch'),
    ('early stopping and the best', 'in an evaluation'),
    ('EMA', 'rolled back'),
    ('EMA', 'in an evaluation'),
    ('plateau and the best', 'in the last evaluation'),
}


def crosses(stops):
    for feature, way in itertools.product(FEATURES, stops):
        marks = [] if (feature, way) in SHORT else [pytest.mark.whole]
        yield pytest.param(feature, way, id=f'{feature}, {way}', marks=marks)


@pytest.mark.parametrize(('feature', 'way'), list(crosses(STOPS)))
def test_preempted(feature, way, never_stopped, tmp_path):
    reference = never_stopped(feature)
    first = train(tmp_path / 'work', *parts(feature), stop(**STOPS[way]))
    assert first.status == 75, first.output[-3000:]
    run = train(tmp_path / 'work', *parts(feature), arguments=['--resume'])
    assert_ends_as(run, reference)


@pytest.mark.parametrize(('feature', 'way'), list(crosses(CUTS)))
def test_cut(feature, way, never_stopped, tmp_path):
    reference = never_stopped(feature)
    cut = dict(train_cfg=dict(max_updates=CUTS[way]))
    first = train(tmp_path / 'work', *parts(feature), cut)
    assert first.status == 0, first.output[-3000:]
    assert first.last['meta']['iter'] == CUTS[way]
    run = train(tmp_path / 'work', *parts(feature), arguments=['--resume'])
    assert_ends_as(run, reference)


@pytest.mark.parametrize(('feature', 'way'), list(crosses(['rolled back'])))
def test_rolled_back(feature, way, never_stopped, tmp_path):
    divergence = dict(type='DivergenceHook', rollbacks=1, lr_factor=1.0)
    watched = dict(default_hooks=dict(divergence=divergence))
    bad = dict(default_hooks=dict(bad=dict(type='NanOnce', update=18)))
    run = train(tmp_path / 'work', *parts(feature), watched, bad)
    if FEATURES[feature].get('param_scheduler'):
        assert run.status == 2 and len(run.errors) == 1, run.output[-3000:]
        assert 'rollbacks=1' in run.errors[0]
        return
    assert 'Rollback 1 of 1' in run.output
    assert_ends_as(run, never_stopped(feature, watched))


@pytest.mark.parametrize(('feature', 'way'), list(crosses(KILLS)))
def test_killed(feature, way, never_stopped, tmp_path):
    reference = never_stopped(feature)
    killed = get_context('fork').Process(
        target=train,
        args=(
            tmp_path / 'work',
            *parts(feature),
            stop(number='SIGKILL', **KILLS[way]),
        ),
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -9
    run = train(tmp_path / 'work', *parts(feature), arguments=['--resume'])
    assert_ends_as(run, reference)


def test_killed_as_a_process(never_stopped, tmp_path):
    """The same as the user types it."""
    feature = parts('all at once')
    reference = never_stopped('all at once')
    kill = stop(number='SIGKILL', **KILLS['killed'])
    first = train_as_process(tmp_path / 'work', *feature, kill)
    assert first.status == -9, first.output[-3000:]
    run = train_as_process(tmp_path / 'work', *feature, arguments=['--resume'])
    assert_ends_as(run, reference)
