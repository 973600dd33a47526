"""Settings that WarmupStepLRHook refuses, each with its error."""

import pytest
import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict

from mmdet_largebatch.hooks import WarmupStepLRHook

NAN, INF = float('nan'), float('inf')


def hook(**settings):
    return dict(type='WarmupStepLRHook', **settings)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'milestones': [11, 8]}, 'milestones=[11, 8]. Must be a list of increasing epochs'),
        ({'milestones': [8, 8]}, 'milestones=[8, 8]. Must be a list of increasing epochs'),
        ({'milestones': [0, 8]}, 'milestones=[0, 8]. Must be a list of increasing epochs'),
        ({'milestones': [-1]}, 'milestones=[-1]. Must be'),
        ({'milestones': [NAN]}, 'milestones=[nan]. Must be'),
        ({'milestones': [INF]}, 'milestones=[inf]. Must be'),
        ({'milestones': ['8']}, "milestones=['8']. Must be"),
        ({'milestones': [True]}, 'milestones=[True]. Must be'),
        ({'milestones': 8}, 'milestones=8. Must be a list'),
        ({'milestones': '[8, 11]'}, "milestones='[8, 11]'. Must be a list"),
        ({'gamma': 0}, 'gamma=0. Must be a finite number above 0'),
        ({'gamma': -0.1}, 'gamma=-0.1. Must be'),
        ({'gamma': NAN}, 'gamma=nan. Must be'),
        ({'gamma': '0.1'}, "gamma='0.1'. Must be"),
        ({'gamma': True}, 'gamma=True. Must be'),
        ({'warmup_ratio': 0}, 'warmup_ratio=0. Must be a number above 0'),
        ({'warmup_ratio': 2}, 'warmup_ratio=2. Must be a number above 0'),
        ({'warmup_ratio': NAN}, 'warmup_ratio=nan. Must be'),
        ({'warmup_ratio': 'x'}, "warmup_ratio='x'. Must be"),
        ({'warmup_iters': -1}, 'warmup_iters=-1. Must be a whole number of updates'),
        ({'warmup_iters': 0.5}, 'warmup_iters=0.5. Must be a whole number of updates'),
        ({'warmup_iters': INF}, 'warmup_iters=inf. Must be a whole number of updates'),
        ({'warmup_iters': 'none'}, "warmup_iters='none'. Must be a whole number of updates"),
        ({'warmup_iters': False}, 'warmup_iters=False. Must be a whole number of updates'),
        ({'warmup_epochs': -1}, 'warmup_epochs=-1. Must be a number of epochs'),
        ({'warmup_epochs': NAN}, 'warmup_epochs=nan. Must be a number of epochs'),
        ({'warmup_epochs': '1'}, "warmup_epochs='1'. Must be a number of epochs"),
        (
            {'warmup_iters': 0, 'warmup_epochs': 1},
            'warmup_iters=0 with warmup_epochs=1. Must be one of them',
        ),
        ({'scale_rule': 'linear'}, 'base_batch_size=None. Must be the global batch'),
        (
            {'base_batch_size': 16},
            "scale_rule=None. Must be one of 'linear', 'sqrt', with",
        ),
        (
            {'scale_rule': 'cubic', 'base_batch_size': 16},
            "scale_rule='cubic'. Must be one of 'linear', 'sqrt'",
        ),
        ({'scale_rule': ['sqrt'], 'base_batch_size': 16}, "scale_rule=['sqrt']. Must be one of"),
        ({'scale_rule': 'sqrt', 'base_batch_size': 0}, 'base_batch_size=0. Must be a whole number'),
        (
            {'scale_rule': 'sqrt', 'base_batch_size': '16'},
            "base_batch_size='16'. Must be a whole number of images above 0",
        ),
    ],
)
def test_bad_settings_are_refused_at_construction(settings, message):
    with pytest.raises(ValueError) as caught:
        WarmupStepLRHook(**{'milestones': [8, 11], **settings})
    assert str(caught.value).startswith(f'Invalid WarmupStepLRHook.{message}')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('settings', 'others', 'message'),
    [
        (
            dict(warmup_iters=13),
            {},
            'WarmupStepLRHook.warmup_iters=13. Must be no longer than the training of 3 epochs '
            '(12 updates)',
        ),
        (
            dict(warmup_epochs=3.2),
            {},
            'WarmupStepLRHook.warmup_epochs=3.2. Must be no longer than the training of 3 epochs',
        ),
        (
            dict(milestones=[1, 3]),
            {},
            'WarmupStepLRHook.milestones=[1, 3]. Must be inside the training of 3 epochs',
        ),
        (
            dict(milestones=[8, 11]),
            {},
            'WarmupStepLRHook.milestones=[8, 11]. Must be inside',
        ),
        # 0.1 of an epoch is 0.4 updates, nearest 0; 1 and 1.1 are both update 4.
        (dict(milestones=[0.1]), {}, 'WarmupStepLRHook.milestones=[0.1]. Must be inside'),
        (
            dict(milestones=[1, 1.1]),
            {},
            'WarmupStepLRHook.milestones=[1, 1.1]. Must be at least an update apart',
        ),
        (
            dict(),
            {'param_scheduler': [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3)]},
            "param_scheduler=['LinearLR']. Must be None",
        ),
        (
            dict(),
            {'auto_scale_lr': dict(enable=True, base_batch_size=16)},
            'auto_scale_lr.enable=True. Must be False with EpochBasedTrainLoop, which knows no ',
        ),
        (
            dict(scale_rule='sqrt', base_batch_size=8),
            {'train_dataloader.batch_sampler': dict(type='ScheduleToyBatchSampler')},
            "WarmupStepLRHook.scale_rule='sqrt'. Must be None: no batch size can be read off",
        ),
        (
            dict(),
            {'default_hooks.param_scheduler': None},
            "default_hooks.param_scheduler=None. Must be dict(type='ParamSchedulerHook')",
        ),
        (
            dict(),
            {'optim_wrapper.accumulative_counts': 4},
            'optim_wrapper.accumulative_counts=4. Must be 1 with '
            'EpochBasedTrainLoop, which steps the schedule every micro-batch: use '
            "train_cfg.type='GlobalBatchTrainLoop' with global_batch_size=8",
        ),
        (
            dict(),
            {'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=12)},
            "train_cfg.type='IterBasedTrainLoop'. Must be a loop with epochs",
        ),
        (
            dict(),
            {'optim_wrapper.optimizer.lr': 0.0},
            'optim_wrapper.optimizer.lr=0.0. Must be a finite',
        ),
        (
            dict(),
            {'optim_wrapper.optimizer.lr': INF},
            'optim_wrapper.optimizer.lr=inf. Must be a finite',
        ),
    ],
)
def test_what_does_not_fit_the_training_is_refused(config, runner, settings, others, message):
    run = runner(config(hook(**{'milestones': [], **settings}), **others))
    with pytest.raises(ValueError) as caught:
        run.train()
    assert str(caught.value).startswith(f'Invalid {message}')
    assert '\n' not in str(caught.value)
    assert run.recorder.lrs == []


def test_several_optimizers_are_refused(config, runner):
    cfg = config(hook(milestones=[]))
    run = runner(cfg)
    head, backbone = run.model.head.parameters(), run.model.backbone.parameters()
    run.optim_wrapper = OptimWrapperDict(
        head=OptimWrapper(torch.optim.SGD(head, lr=1.0)),
        backbone=OptimWrapper(torch.optim.SGD(backbone, lr=1.0)),
    )
    with pytest.raises(ValueError, match=r"optim_wrapper=\['head', 'backbone'\]\. Must be a"):
        run.train()


def test_two_of_them_are_refused(config, runner):
    cfg = config(hook(milestones=[]), **{'default_hooks.second': hook(milestones=[1])})
    with pytest.raises(ValueError, match=r"param_scheduler=\['WarmupStepLR'\]\. Must be None"):
        runner(cfg).train()
