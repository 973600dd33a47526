"""The schedule as a function of the update, and its scheduler on a bare optimizer."""

from types import SimpleNamespace

import mmdet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.registry import PARAM_SCHEDULERS
from torch.optim import SGD

from mmdet_largebatch.schedulers import WarmupStepLR, warmup_step_factor

NAN, INF = float('nan'), float('inf')


def optimizer_with(*lrs):
    return SGD([{'params': [torch.nn.Parameter(torch.zeros(1))], 'lr': lr} for lr in lrs])


def lrs_of(optimizer):
    return [group['lr'] for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ('warmup_iters', 'milestones', 'gamma', 'ratio', 'expected'),
    [
        # 5 updates from 0.2 to 1 are four rises of 0.8 / 4; then halved at 6 and at 8.
        (5, [6, 8], 0.5, 0.2, [0.2, 0.4, 0.6, 0.8, 1, 1, 0.5, 0.5, 0.25, 0.25]),
        # A milestone inside the warmup: both factors, 0.5 + 0.5 * t / 2 and 0.1 from update 1 on.
        (3, [1], 0.1, 0.5, [0.5, 0.075, 0.1, 0.1]),
        # Neither none nor one update of warmup leaves an update below the base LR.
        (0, [2], 0.1, 0.001, [1, 1, 0.1]),
        (1, [2], 0.1, 0.001, [1, 1, 0.1]),
        # Two updates: the ratio, then 1.
        (2, [], 0.1, 0.001, [0.001, 1, 1]),
    ],
)
def test_factor_against_numbers_by_hand(warmup_iters, milestones, gamma, ratio, expected):
    factors = [
        warmup_step_factor(update, warmup_iters, milestones, gamma, ratio)
        for update in range(len(expected))
    ]
    assert factors == pytest.approx(expected, rel=1e-15)


def test_equals_mmengine_on_mmdets_1x_schedule_at_every_update():
    # mmdet's own recipe, LinearLR then MultiStepLR, stepped by MMEngine's own hook. 117,266 images
    # of train2017 in batches of 16 are 7,330 updates an epoch.
    cfg = Config.fromfile(
        f'{mmdet.__path__[0]}/.mim/configs/mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
    )
    epochs, updates_per_epoch = cfg.train_cfg.max_epochs, 7330
    # Groups as `lr_mult` makes them, the first with the recipe's LR.
    base_lrs = [cfg.optim_wrapper.optimizer.lr, 0.002, 0.3]
    assert base_lrs[0] == 0.02
    theirs, ours = optimizer_with(*base_lrs), optimizer_with(*base_lrs)
    chained = [
        PARAM_SCHEDULERS.build(dict(scheduler, optimizer=theirs))
        for scheduler in cfg.param_scheduler
    ]
    closed = WarmupStepLR(ours, warmup_iters=500, milestones=[8 * 7330, 11 * 7330])
    their_run = SimpleNamespace(param_schedulers=chained)
    our_run = SimpleNamespace(param_schedulers=[closed])
    hook = ParamSchedulerHook()
    theirs.step()
    ours.step()

    seen = 0
    for _ in range(epochs):
        for _ in range(updates_per_epoch):
            for their_lr, our_lr in zip(lrs_of(theirs), lrs_of(ours), strict=True):
                assert abs(our_lr - their_lr) <= 1e-12 * their_lr, seen
            seen += 1
            hook.after_train_iter(their_run, batch_idx=0)
            hook.after_train_iter(our_run, batch_idx=0)
        hook.after_train_epoch(their_run)
        hook.after_train_epoch(our_run)
    assert seen == 87_960
    # Two decays by 0.1 leave a hundredth.
    assert closed.get_last_value() == pytest.approx([0.0002, 0.00002, 0.003])


@settings(deadline=None)
@given(
    warmup_iters=st.integers(0, 40),
    milestones=st.lists(st.integers(1, 60), unique=True, max_size=4).map(sorted),
    gamma=st.floats(0.01, 2),
    ratio=st.floats(1e-6, 1),
)
def test_factor_equals_a_loop_that_adds_and_multiplies(warmup_iters, milestones, gamma, ratio):
    warmup, decay = (ratio if warmup_iters > 1 else 1.0), 1.0
    for update in range(64):
        if update in milestones:
            decay *= gamma
        factor = warmup_step_factor(update, warmup_iters, milestones, gamma, ratio)
        assert factor == pytest.approx(warmup * decay, rel=1e-9)
        if update + 1 < warmup_iters:
            warmup += (1 - ratio) / (warmup_iters - 1)


@settings(deadline=None)
@given(warmup_iters=st.integers(0, 300), ratio=st.floats(1e-9, 1))
def test_warmup_rises_from_the_ratio_to_one_and_stays(warmup_iters, ratio):
    factors = [warmup_step_factor(t, warmup_iters, [], 0.1, ratio) for t in range(310)]
    assert factors == sorted(factors)
    assert factors[0] == (ratio if warmup_iters > 1 else 1)
    assert set(factors[max(warmup_iters - 1, 0) :]) == {1.0}


def test_state_is_the_update_alone_and_new_settings_hold_after_loading():
    old_optimizer = optimizer_with(1.0, 0.1)
    old = WarmupStepLR(old_optimizer, warmup_iters=0, milestones=[4], gamma=0.5)
    old_optimizer.step()
    for _ in range(5):
        old.step()
    assert lrs_of(old_optimizer) == [0.5, 0.05]
    assert old.state_dict() == {'update': 5}

    optimizer = optimizer_with(2.0, 0.3)
    new = WarmupStepLR(optimizer, warmup_iters=0, milestones=[3, 5, 7], gamma=0.1)
    optimizer.load_state_dict(old_optimizer.state_dict())
    assert lrs_of(optimizer) == [0.5, 0.05]  # the old LR, with which MMEngine would continue
    new.load_state_dict(old.state_dict())
    # Milestones 3 and 5 passed: a hundredth of the new base LRs.
    assert lrs_of(optimizer) == pytest.approx([0.02, 0.003], rel=1e-15)
    assert new.get_last_value() == lrs_of(optimizer)
    assert [group['initial_lr'] for group in optimizer.param_groups] == [2.0, 0.3]
    optimizer.step()
    new.step()
    new.step()
    assert lrs_of(optimizer) == pytest.approx([0.002, 0.0003], rel=1e-15)


def test_another_schedulers_state_is_refused():
    scheduler = WarmupStepLR(optimizer_with(1.0), 0, [])
    theirs = PARAM_SCHEDULERS.build(
        dict(type='MultiStepLR', milestones=[1], optimizer=optimizer_with(1.0))
    )
    with pytest.raises(ValueError, match=r"'last_step'.*Must be \['update'\].*load_from"):
        scheduler.load_state_dict(theirs.state_dict())


def test_a_group_that_lr_mult_holds_still_is_no_mistake():
    optimizer = optimizer_with(1.0, 0.0)
    WarmupStepLR(optimizer, 2, [], warmup_ratio=0.25)
    assert lrs_of(optimizer) == [0.25, 0.0]


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (
            {'warmup_iters': -1},
            'WarmupStepLR.warmup_iters=-1. Must be a whole number of updates, 0',
        ),
        ({'warmup_iters': 2.5}, 'WarmupStepLR.warmup_iters=2.5. Must be a whole number'),
        ({'warmup_iters': '5'}, "WarmupStepLR.warmup_iters='5'. Must be a whole number"),
        ({'warmup_iters': True}, 'WarmupStepLR.warmup_iters=True. Must be a whole number'),
        (
            {'milestones': [2, 2]},
            'WarmupStepLR.milestones=[2, 2]. Must be a list of increasing whole',
        ),
        (
            {'milestones': [3, 2]},
            'WarmupStepLR.milestones=[3, 2]. Must be a list of increasing whole',
        ),
        ({'milestones': [0, 2]}, 'WarmupStepLR.milestones=[0, 2]. Must be a list'),
        ({'milestones': [1.5]}, 'WarmupStepLR.milestones=[1.5]. Must be a list'),
        ({'milestones': 8}, 'WarmupStepLR.milestones=8. Must be a list'),
        ({'gamma': 0}, 'WarmupStepLR.gamma=0. Must be a finite number above 0, such as 0.1'),
        ({'gamma': INF}, 'WarmupStepLR.gamma=inf. Must be a finite number above 0'),
        (
            {'warmup_ratio': 0},
            'WarmupStepLR.warmup_ratio=0. Must be a number above 0 (at 0 the',
        ),
        ({'warmup_ratio': 1.01}, 'WarmupStepLR.warmup_ratio=1.01. Must be a number above 0'),
        (
            {'optimizer': optimizer_with(0.0)},
            'optim_wrapper.optimizer.lr=0.0. Must be a finite',
        ),
        (
            {'optimizer': optimizer_with(0.1, NAN)},
            'optim_wrapper.optimizer.lr=nan. Must be a finite',
        ),
        (
            {'optimizer': optimizer_with(INF)},
            'optim_wrapper.optimizer.lr=inf. Must be a finite',
        ),
    ],
)
def test_bad_settings(changed, message):
    good = dict(optimizer=optimizer_with(1.0), warmup_iters=5, milestones=[8, 11])
    with pytest.raises(ValueError) as caught:
        WarmupStepLR(**{**good, **changed})
    assert str(caught.value).startswith(f'Invalid {message}')
    assert '\n' not in str(caught.value)
