"""LR, warmup and decays of a plan, compared with MMEngine's schedulers."""

import numpy as np
import pytest
import torch
from helpers.plans import COCO, LAMB, TRAIN2017, plan
from mmdet.registry import HOOKS
from mmengine.hooks import ParamSchedulerHook
from mmengine.hub import get_config
from mmengine.optim import ConstantLR, LinearLR, MultiStepLR

from mmdet_largebatch import SettingError, carry_recipe
from mmdet_largebatch.planning import draw_lr, make_plan
from mmdet_largebatch.results.settings import base_lr

# Most of them build the model of a recipe on COCO.
pytestmark = pytest.mark.slow


def test_lr_is_that_of_mmengine_at_batch_16():
    """Step mmdet's own schedule: 500 updates of warmup, 12 epochs of 7,330 updates."""
    made = plan(COCO.format('8xb2-sgd-1x'))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.02)
    warmup = LinearLR(optimizer, start_factor=0.001, by_epoch=False, begin=0, end=500)
    steps = MultiStepLR(optimizer, milestones=[8, 11], gamma=0.1, by_epoch=True)
    optimizer.step()
    lrs = []
    for update in range(1, 12 * 7330 + 1):
        lrs.append(optimizer.param_groups[0]['lr'])
        warmup.step()
        if update % 7330 == 0:
            steps.step()
    np.testing.assert_allclose(made.lrs, lrs, rtol=1e-10)


def test_a_stock_config_is_planned_with_its_own_schedulers():
    stock = make_plan(get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'), None, TRAIN2017)
    ours = plan(COCO.format('8xb2-sgd-1x'))
    assert (stock.schedule, stock.ranks) == ('LinearLR, MultiStepLR', 8)
    np.testing.assert_allclose(stock.lrs, ours.lrs, rtol=1e-10)
    for key in ('updates_per_epoch', 'updates', 'warmup_updates', 'state_bytes', 'lr_published'):
        assert getattr(stock, key) == getattr(ours, key), key
    assert [decay.update for decay in stock.decays] == [58_640, 80_630]  # 8 and 11 x 7,330


def test_stock_accumulation_and_auto_scaling_are_planned_as_mmengine_does_them():
    """MMEngine's schedulers step every micro-batch, and its scaling ignores accumulation."""
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.auto_scale_lr.enable = True
    made = make_plan(cfg, 16, TRAIN2017)
    assert (made.global_batch, made.micro_batches_per_rank) == (64, (2, 2))
    # 117,266 pictures on 16 ranks are 7,330 each, 3,665 micro-batches: 43,980 in 12 epochs.
    assert (made.updates_per_epoch, made.updates, made.warmup_updates) == (3665 / 2, 21_990, 250)
    # 16 ranks of 2 pictures: twice the batch of 16.
    assert made.lr == pytest.approx(0.04)
    assert made.lr_from == 'by auto_scale_lr: 0.02 at batch 16, x 2'
    # 0.16 at 128 is 0.08 at 64: off by a factor of 2, which gets no warning.
    assert made.warnings == []


@pytest.mark.parametrize(
    ('recipe', 'lr', 'lr_from'),
    [
        ('64xb2-sgd-1x', 1.28, 'by the linear rule: 0.16 at batch 16, x 8'),
        ('64xb2-lamb-1x', 0.00353553, 'by the sqrt rule: 0.00125 at batch 16, x 2.82843'),
    ],
)
def test_auto_scaling_under_the_global_batch_goes_by_the_optimizer(recipe, lr, lr_from):
    made = plan(COCO.format(recipe), auto_scale_lr=dict(enable=True, base_batch_size=16))
    assert (made.lr, made.lr_from) == (pytest.approx(lr, rel=1e-5), lr_from)


def stepped(schedulers, lr, iterations, per_epoch):
    """Return the LR of each iteration, by stepping MMEngine's schedulers."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    built = [kind(optimizer, **options) for kind, options in schedulers]
    optimizer.step()
    lrs = []
    for iteration in range(1, iterations + 1):
        lrs.append(optimizer.param_groups[0]['lr'])
        for scheduler in built:
            if not scheduler.by_epoch or iteration % per_epoch == 0:
                scheduler.step()
    return lrs


@pytest.mark.parametrize(
    ('warmup', 'updates'),
    [
        ((LinearLR, dict(start_factor=0.001, by_epoch=False, begin=0, end=500)), 500),
        ((LinearLR, dict(start_factor=0.001, by_epoch=False, begin=0, end=100)), 100),
        ((ConstantLR, dict(factor=0.1, by_epoch=False, begin=0, end=250)), 250),
        (None, 0),
    ],
)
def test_the_warmup_is_that_of_the_scheduler_wherever_the_peak_is(warmup, updates):
    """27 updates an epoch, 324 in all: the LR decays after 216, within the longest warmup."""
    steps = (MultiStepLR, dict(milestones=[8, 11], gamma=0.1, by_epoch=True, begin=0, end=12))
    schedulers = [warmup, steps] if warmup else [steps]
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.param_scheduler = [dict(type=kind.__name__, **options) for kind, options in schedulers]
    made = make_plan(cfg, 8, 432)
    np.testing.assert_allclose(made.lrs, stepped(schedulers, 0.02, 324, 27), rtol=1e-10)
    assert (made.warmup_updates, made.updates) == (updates, 324)
    assert {216, 297} <= {decay.update for decay in made.decays}
    assert len(made.decays) == 2 and not made.gradual_decay
    longer = [text for text in made.warnings if 'longer than the training of 324' in text]
    assert len(longer) == (updates == 500)
    draw_lr(made, 'a warmup that does not end').draw_without_rendering()


def test_two_warmups_that_follow_each_other():
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.param_scheduler = [
        dict(type='ConstantLR', factor=0.1, by_epoch=True, begin=0, end=1),
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=27, end=90),
    ]
    assert make_plan(cfg, 8, 432).warmup_updates == 90


@pytest.mark.parametrize(
    ('schedulers', 'warmup', 'gradual'),
    [
        ([dict(type='CosineAnnealingLR', T_max=324, by_epoch=False)], 0, True),
        ([dict(type='PolyLR', power=0.9, end=324, by_epoch=False)], 0, True),
        ([dict(type='OneCycleLR', eta_max=0.02, total_steps=324, by_epoch=False)], 97, True),
        (
            [
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
                dict(
                    type='CosineAnnealingLR', T_max=6, begin=6, end=12, convert_to_iter_based=True
                ),
            ],
            50,
            True,
        ),
    ],
)
def test_gradual_schedules(schedulers, warmup, gradual):
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.param_scheduler = schedulers
    made = make_plan(cfg, 8, 432)
    assert (made.warmup_updates, made.gradual_decay, made.decays) == (warmup, gradual, [])


@pytest.mark.parametrize('peaks', [0.02, [0.002, 0.02, 0.5]])
def test_the_lr_of_one_cycle_is_its_peak(peaks):
    """It begins at a 25th of its peak, MMEngine's default. A list has a peak for each group,
    and a last one for the base LR that MMEngine logs."""
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    paramwise = dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
    cfg.optim_wrapper.update(constructor='MergedGroupsConstructor', paramwise_cfg=paramwise)
    schedule = dict(type='OneCycleLR', eta_max=peaks, total_steps=324, by_epoch=False)
    cfg.param_scheduler = [schedule]
    made = make_plan(cfg, 8, 432)
    assert (made.lr, made.lr_from) == (0.02, 'by eta_max of param_scheduler')
    assert (made.lrs[0], max(made.lrs)) == pytest.approx((0.0008, 0.02), rel=1e-4)
    of_groups = peaks[:2] if isinstance(peaks, list) else [0.02]
    assert sorted(one.options['lr'] for one in made.group_settings) == of_groups
    assert not [text for text in made.warnings if 'published' in text]
    if peaks == 0.02:
        assert base_lr(cfg, 8) == 0.02
    schedule['total_steps'] = 320
    cfg.param_scheduler = [schedule]
    message = '^param_scheduler: Tried to step 322 times.* the training has 324 iterations.$'
    with pytest.raises(SettingError, match=message):
        make_plan(cfg, 8, 432)


class SetsTheLR(ParamSchedulerHook):
    """A user's hook that is a schedule of its own, as mmyolo's YOLOv5ParamSchedulerHook is."""

    def after_train_iter(self, runner, *args, **kwargs):
        runner.optim_wrapper.param_groups[0]['lr'] /= 2


def test_a_schedule_that_is_a_hook_is_not_called_constant(monkeypatch):
    monkeypatch.setitem(HOOKS.module_dict, 'SetsTheLR', SetsTheLR)
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.param_scheduler = None
    for hook, planned, carried in (
        ('ParamSchedulerHook', 'nothing, it is constant', 'the LR is constant'),
        ('SetsTheLR', 'SetsTheLR, whose LRs are not planned', 'SetsTheLR sets the LR, and no'),
    ):
        cfg.default_hooks.param_scheduler = dict(type=hook)
        assert make_plan(cfg, 8, 432).schedule == planned
        [note] = [x.why for x in carry_recipe(cfg, 128)[1] if x.key == 'param_scheduler']
        assert carried in note


def test_values_of_each_group():
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    paramwise = dict(custom_keys=dict(backbone=dict(lr_mult=0.1)))
    cfg.optim_wrapper.update(constructor='MergedGroupsConstructor', paramwise_cfg=paramwise)
    plateau = dict(type='ReduceOnPlateauLR', monitor='loss', min_value=[1e-5, 1e-6])
    cfg.param_scheduler = plateau
    assert make_plan(cfg, 8, 432).lrs.tolist() == [0.02] * 324
    cfg.param_scheduler = dict(plateau, min_value=[1e-5, 1e-6, 1e-7])
    with pytest.raises(SettingError, match='^param_scheduler: expected 2 min_lrs, got 3.$'):
        make_plan(cfg, 8, 432)


def test_a_gradual_decay_is_not_listed():
    cfg = get_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    made = make_plan(cfg, 8, 2048)  # 8 updates an epoch
    assert (made.gradual_decay, made.decays) == (True, [])
    # Its cosine ends at a twentieth of 0.004.
    assert made.last_lr == pytest.approx(2e-4, rel=0.01)


def test_the_lr_says_its_rule():
    scaled = dict(default_hooks__lr__scale_rule='sqrt', default_hooks__lr__base_batch_size=32)
    made = plan(LAMB, **scaled)
    assert made.lr == pytest.approx(2.5e-3)
    assert made.lr_from == 'by the sqrt rule: 0.00125 at batch 32, x 2'
    assert {setting.options['lr'] for setting in made.group_settings} == {made.lr}
