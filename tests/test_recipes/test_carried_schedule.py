"""Schedules, intervals and EMA momenta of carried recipes."""

import pytest
import torch
from helpers.carrying import MASK_RCNN, stock, values
from mmdet.registry import MODELS

from mmdet_largebatch import carry_recipe

SCHEDULES = [
    # The warmup of 500 becomes 625. After it, iterations at batch 128 are an eighth.
    (
        [
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
            dict(
                type='CosineAnnealingLR', by_epoch=False, begin=500, end=88000, T_max=87500
            ),
        ],
        {'0.end': 625, '1.begin': 625, '1.end': 11000, '1.T_max': 10375},
    ),
    (
        [dict(type='MultiStepLR', by_epoch=False, milestones=[58640, 80630])],
        {'0.milestones': [7330, 10079]},
    ),
    (
        [dict(type='PolyLR', by_epoch=False, eta_min=1e-4, begin=0, end=8000)],
        {'0.end': 1000, '0.eta_min': 0.0008},
    ),
    # 0.9999 of the LR remain after an iteration, 0.9999^8 after an update.
    ([dict(type='ExponentialLR', gamma=0.9999, by_epoch=False)], {'0.gamma': 0.999200279944}),
    ([dict(type='ExponentialLR', gamma=0.9, convert_to_iter_based=True)], {}),
    # Restarts at 20,004 and 60,008 are at 2,500.5 and 7,501: the even and the only neighbour.
    (
        [
            dict(
                type='CosineRestartLR', by_epoch=False, periods=[20004, 40004],
                restart_weights=[1, 0.5], eta_min=0.0002,
            )
        ],
        {'0.periods': [2500, 5001], '0.eta_min': 0.0016},
    ),
    ([dict(type='OneCycleLR', by_epoch=False, eta_max=0.02, total_steps=80000)],
     {'0.total_steps': 10012, '0.eta_max': 0.16}),
    # In updates, of this project.
    (
        [dict(type='WarmupStepLR', warmup_iters=500, milestones=[58640])],
        {'0.warmup_iters': 625, '0.milestones': [7330]},
    ),
    # In epochs: nothing but the LR that it names.
    (
        [dict(type='CosineAnnealingLR', T_max=12, eta_min=0.001, convert_to_iter_based=True)],
        {'0.eta_min': 0.008},
    ),
    # A factor, not an LR.
    ([dict(type='CosineAnnealingLR', T_max=12, eta_min_ratio=0.05)], {}),
    # FCOS: a constant warmup is not a linear one.
    (
        [
            dict(type='ConstantLR', factor=1 / 3, by_epoch=False, begin=0, end=500),
            dict(type='MultiStepLR', milestones=[8, 11]),
        ],
        {'0.end': 625},
    ),
    # MMEngine does not reach milestones after the scheduler's end: not the same as steps.
    ([dict(type='MultiStepLR', milestones=[8, 11], end=10)], {}),
]  # fmt: skip


@pytest.mark.parametrize(('schedulers', 'wanted'), SCHEDULES)
def test_other_schedules_stay_mmengines(schedulers, wanted):
    cfg = stock(MASK_RCNN)
    cfg.param_scheduler = schedulers
    carried, changes = carry_recipe(cfg, 128)
    prefix = 'param_scheduler.'
    found = {
        key.removeprefix(prefix): value
        for key, value in values(changes).items()
        if key.startswith(prefix)
    }
    assert found == wanted
    assert 'lr' not in carried.default_hooks


def test_intervals_and_begins_in_iterations():
    cfg = stock(MASK_RCNN)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=4000, save_begin=800)
    cfg.custom_hooks = [
        dict(type='CheckInvalidLossHook'),
        dict(type='EMAHook', begin_iter=800),
        dict(type='EMAHook', momentum=0.001, begin_epoch=2),
        dict(type='MyHook', switch_iter=1600, interval=3),
        dict(type='MeanTeacherHook'),
        dict(type='EMAHook', ema_type='MomentumAnnealingEMA'),
    ]
    _, changes = carry_recipe(cfg, 128)
    carried = {k: v for k, v in values(changes).items() if 'hooks.' in k and '.lr.' not in k}
    for name in ('preemption.type', 'divergence.type', 'checkpoint.type'):
        del carried[f'default_hooks.{name}']
    assert carried == {
        'default_hooks.logger.interval': 6,
        'default_hooks.checkpoint.interval': 500,
        'default_hooks.checkpoint.save_begin': 100,
        'custom_hooks.0.interval': 6,  # 50 by default
        'custom_hooks.1.begin_iter': 100,
        'custom_hooks.1.momentum': 0.00159888,  # 1 - 0.9998^8, by default 0.0002
        'custom_hooks.2.momentum': 0.00797206,  # 1 - 0.999^8
        'custom_hooks.3.switch_iter': 200,
        'custom_hooks.4.momentum': 0.00797206,
        'custom_hooks.5.momentum': 0.00159888,
    }


@pytest.mark.parametrize(
    ('kind', 'images_apart'),
    [
        # An update: the weights are sampled more coarsely.
        ('ExponentialMovingAverage', 64),
        ('MomentumAnnealingEMA', 64),
        # An approximation: 4 % of the 8,000 images by which the average lags behind.
        ('ExpMomentumEMA', 320),
    ],
)
def test_an_ema_averages_the_same_images(kind, images_apart):
    """Of weights that grow with the images seen, at every point of the training."""
    cfg = stock(MASK_RCNN)
    cfg.custom_hooks = [dict(type='EMAHook', ema_type=kind, momentum=0.002)]
    carried, _ = carry_recipe(cfg, 64)

    def averages(hook, batch):
        options = {key: value for key, value in hook.items() if key != 'ema_type'}
        model = torch.nn.Linear(1, 1, bias=False).double()
        ema, found = MODELS.build(options | dict(type=kind, model=model)), []
        for images in range(batch, 64001, batch):
            torch.nn.init.constant_(model.weight, images)
            ema.update_parameters(model)
            if images % 6400 == 0:
                found.append(ema.module.weight.item())
        return found

    expected = averages(cfg.custom_hooks[0], 16)
    assert averages(carried.custom_hooks[0], 64) == pytest.approx(expected, abs=images_apart)


def test_what_no_rule_carries_is_named():
    cfg = stock(MASK_RCNN)
    cfg.param_scheduler = [dict(type='ExponentialWarmRestartLR', by_epoch=False, end=800)]
    cfg.custom_hooks = [dict(type='EMAHook', ema_type='OwnEMA', gamma=100)]
    carried, changes = carry_recipe(cfg, 128)
    assert carried.param_scheduler[0].end == 100
    assert carried.custom_hooks[0].gamma == 100
    said = {change.key: change.why for change in changes if change.stays}
    assert 'no rule is known for its other arguments' in said['param_scheduler.0.type']
    assert said['custom_hooks.0.gamma'] == 'no rule is known for gamma of OwnEMA'
