"""A resumed run with another schedule or LR has the LRs of a run that had these from update 0."""

import pytest
import torch
from helpers.regression import Points, Regression, toy_runner
from helpers.small_training import load, make, resume_lines
from mmengine.hooks import Hook
from torch.utils.data import Subset

OPTIONS = dict(val=False, preemption=False)
WARMUP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3)


class Record(Hook):
    """Record LR and betas of the first and the last group at each update."""

    priority = 'VERY_HIGH'

    def __init__(self):
        self.values = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        groups = runner.optim_wrapper.optimizer.param_groups
        self.values.append([groups[0]['lr'], groups[-1]['lr'], *groups[0].get('betas', ())])


def train(folder, epochs, schedule, optimizer=None, resume=False, **options):
    record = Record()
    options = OPTIONS | dict(hooks=[record]) | options
    if 'lr_hook' not in options:
        options['param_scheduler'] = schedule
    make(folder, epochs=epochs, optimizer=optimizer, resume=resume, **options).train()
    return record.values


def multi_step(end, *milestones):
    return [WARMUP, dict(type='MultiStepLR', end=end, milestones=list(milestones), by_epoch=True)]


def rtmdet(n):
    """The schedule of mmdet's RTMDet."""
    options = dict(by_epoch=True, convert_to_iter_based=True)
    return [
        WARMUP,
        dict(type='CosineAnnealingLR', eta_min=0.002, begin=n // 2, end=n, T_max=n // 2, **options),
    ]


def one_cycle(eta_max):
    return [dict(type='OneCycleLR', eta_max=eta_max, total_steps=20, by_epoch=False)]


def momentum(n):
    return [
        dict(type='WarmupStepLR', warmup_iters=3, milestones=[n]),
        dict(type='LinearMomentum', start_factor=0.5, end=n, by_epoch=True),
    ]


def parts(lr, mult=1.0):
    """An optimizer whose first layer has a multiple of the LR."""
    rules = dict(custom_keys=dict(first=dict(lr_mult=mult)))
    return dict(optimizer=dict(type='AdamW', lr=lr), wrapper=dict(paramwise_cfg=rules))


CHANGES = dict(
    decays_to_come=(multi_step(4, 2, 3), multi_step(8, 5, 7), {}, {}),
    no_end=([dict(type='StepLR', step_size=1)], [dict(type='StepLR', step_size=3)], {}, {}),
    cosine=tuple([dict(type='CosineAnnealingLR', T_max=n)] for n in (4, 8)) + ({}, {}),
    poly=tuple([dict(type='PolyLR', eta_min=0.0, end=n)] for n in (4, 8)) + ({}, {}),
    rtmdet=(rtmdet(4), rtmdet(8), {}, {}),
    one_cycle=(one_cycle(0.1), one_cycle(0.05), {}, {}),
    momentum=(momentum(4), momentum(6), parts(0.05), parts(0.05)),
    lr=(rtmdet(8), rtmdet(8), parts(0.05), parts(0.01)),
    lr_of_some=(rtmdet(8), rtmdet(8), parts(0.05, 0.0), parts(0.01, 0.0)),
    by_epoch=([dict(type='PolyLR', end=8)], [dict(type='PolyLR', by_epoch=False, end=16)], {}, {}),
)


@pytest.mark.parametrize('name', CHANGES)
def test_another_schedule(tmp_path, name):
    old, new, before, after = CHANGES[name]
    train(tmp_path / 'run', 4, old, **before)
    values = train(tmp_path / 'run', 8, new, resume=True, **after)
    expected = train(tmp_path / 'never_stopped', 8, new, **after)
    assert values == expected[8:] and len(values) == 8
    lines = resume_lines(tmp_path / 'run')
    assert lines and all(', as the config says: ' in line for line in lines)
    if 'lr' in name:
        assert lines == ['optim_wrapper, as the config says: lr 0.05 -> 0.01.']


def test_a_schedule_that_was_not_saved_is_set_to_its_update(tmp_path):
    schedule = multi_step(4, 1, 3)
    train(tmp_path, 2, schedule)
    content = load(tmp_path / 'epoch_2.pth')
    del content['param_schedulers']
    torch.save(content, tmp_path / 'epoch_2.pth')
    values = train(tmp_path, 4, schedule, resume=True)
    assert values == train(tmp_path / 'never_stopped', 4, schedule)[4:]
    assert any('the schedule is set to update 4' in line for line in resume_lines(tmp_path))


WARMUP_STEP = [dict(type='WarmupStepLR', warmup_iters=3, milestones=[12])]
POLY = [dict(type='PolyLR', eta_min=0.0, end=8)]


@pytest.mark.parametrize(
    ('old', 'new'),
    [
        (multi_step(4, 2, 3), POLY),
        (POLY, multi_step(8, 5, 7)),
        (multi_step(4, 2, 3), rtmdet(8)),
        (multi_step(4, 2, 3), WARMUP_STEP),
        (WARMUP_STEP, POLY),
        (WARMUP_STEP, multi_step(8, 5, 7)),
    ],
)
def test_schedulers_of_another_kind_or_number(tmp_path, old, new):
    train(tmp_path / 'run', 4, old)
    values = train(tmp_path / 'run', 8, new, resume=True)
    assert values == train(tmp_path / 'never_stopped', 8, new)[8:] and len(values) == 8
    (line,) = resume_lines(tmp_path / 'run')
    assert line.endswith('in the checkpoint: the schedule is set to update 8.')


def test_another_schedule_and_another_data_set(tmp_path):
    """MMEngine's loop keeps the count of epochs. Two epochs of 2 updates are done, or of 3."""

    def last_lr(folder, points, epochs, milestones, resume=False):
        record = Record()
        runner = toy_runner(
            tmp_path / folder,
            Regression(),
            6,
            data=dict(dataset=Subset([*Points(), *Points()], range(points))),
            default_hooks=dict(checkpoint=dict(type='mmdet.AtomicCheckpointHook')),
            hooks=[record],
            param_scheduler=[dict(type='MultiStepLR', milestones=milestones)],
            resume=resume,
        )
        runner._train_loop = dict(by_epoch=True, max_epochs=epochs)
        runner.train()
        return record.values[-1]

    expected = last_lr('never_stopped', 12, 3, [2])
    assert expected == [pytest.approx(0.01)] * 2
    for before, after in ((12, 18), (18, 12)):
        folder = f'from_{before}'
        last_lr(folder, before, 2, [1])
        assert last_lr(folder, after, 3, [2], resume=True) == expected


def test_a_schedule_by_metrics_stays_and_is_said(tmp_path):
    """As with MMEngine's CheckpointHook: the metrics of the past are not known."""

    def by_error(factor):
        plateau = dict(type='ReduceOnPlateauLR', monitor='error', patience=0, end=9)
        return [plateau | dict(factor=factor)]

    values = {}
    for kind in ('mmdet.AtomicCheckpointHook', 'CheckpointHook'):
        options = dict(val=True, checkpoint=dict(type=kind, interval=1))
        folder, sgd = tmp_path / kind, dict(type='SGD', lr=0.05)
        train(folder, 4, by_error(0.5), sgd, **options)
        changed = dict(sgd, lr=0.5)
        values[kind] = train(folder, 6, by_error(0.1), changed, resume=True, **options)
    assert values['mmdet.AtomicCheckpointHook'] == values['CheckpointHook']
    assert resume_lines(tmp_path / 'mmdet.AtomicCheckpointHook') == [
        "param_scheduler ReduceOnPlateauLR: the checkpoint's factor stay, not the config's.",
        'optim_wrapper: lr 0.05 -> 0.5 is not taken: ReduceOnPlateau decides by past metrics.',
    ]


def test_without_a_schedule(tmp_path):
    """An LR of 0 in the checkpoint too."""
    for epochs, lr in enumerate((0.05, 0.0, 0.01), 1):
        sgd = dict(type='SGD', lr=lr)
        assert train(tmp_path, epochs, None, sgd, epochs > 1)[-1] == [lr, lr]


def test_from_mmengines_schedule_to_the_hook(tmp_path):
    """The hook's own schedule has the state ``update`` alone."""
    new = dict(schedule=None, lr_hook=dict(warmup_iters=3, milestones=[6]))
    train(tmp_path / 'run', 4, multi_step(4, 2, 3))
    values = train(tmp_path / 'run', 8, resume=True, **new)
    assert values == train(tmp_path / 'never_stopped', 8, **new)[8:] and len(values) == 8
