"""The hook in real trainings of 3 epochs of 4 updates: what it resolves and logs."""

from pathlib import Path

import pytest
from mmengine.config import Config, DictAction
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop

from mmdet_largebatch.schedulers import WarmupStepLR

EPOCHS = dict(_delete_=True, max_epochs=3)


@LOOPS.register_module()
class ScheduleToyGlobalLoop(EpochBasedTrainLoop):
    """MMEngine's loop with a global batch."""

    global_batch_size = 8


def hook(**settings):
    return dict(type='WarmupStepLRHook', **settings)


def log_of(runner):
    return (Path(runner.log_dir) / f'{runner.timestamp}.log').read_text()


def summaries(runner):
    return [line for line in log_of(runner).splitlines() if 'WarmupStepLRHook: global' in line]


@pytest.mark.parametrize(
    ('settings', 'expected'),
    [
        # 4 updates an epoch: decays by 0.5 at updates 4 and 8; warmup 0.2, 0.6, 1.
        (
            dict(milestones=[1, 2], gamma=0.5, warmup_iters=3, warmup_ratio=0.2),
            [0.2, 0.6, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25],
        ),
        # 1.5 epochs are 6 updates: from 0.5 to 1 in 5 rises. The milestone is update 8.
        (
            dict(milestones=[2], warmup_epochs=1.5, warmup_ratio=0.5),
            [0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1, 0.1, 0.1, 0.1, 0.1],
        ),
        # 1.6 epochs are 6.4 updates, 2.4 are 9.6: the nearest are 6 and 10.
        (dict(milestones=(1.6, 2.4)), [1] * 6 + [0.1] * 4 + [0.01] * 2),
        # Neither warmup nor decay.
        (dict(milestones=[], warmup_iters=0), [1] * 12),
        # A warmup as long as the training ends with it: 0.01 to 1 in 11 rises of 0.09.
        (
            dict(milestones=[], warmup_iters=12, warmup_ratio=0.01),
            [0.01, 0.1, 0.19, 0.28, 0.37, 0.46, 0.55, 0.64, 0.73, 0.82, 0.91, 1],
        ),
    ],
)
def test_lr_of_every_update(config, runner, settings, expected):
    run = runner(config(hook(**settings)))
    run.train()
    assert run.recorder.first == pytest.approx(expected, rel=1e-12)
    assert run.param_schedulers[0].state_dict() == {'update': 12}


@pytest.mark.parametrize(
    ('settings', 'loop', 'expected'),
    [
        # Batches of 2 on one rank, LR meant for 8: a quarter, or the root of it.
        (dict(scale_rule='linear', base_batch_size=8), {}, [0.25, 0.025]),
        (dict(scale_rule='sqrt', base_batch_size=8), {}, [0.5, 0.05]),
        (dict(), {}, [1.0, 0.1]),
        # The global batch of the loop, 8 = 4 x 2.
        (
            dict(scale_rule='linear', base_batch_size=2),
            {'train_cfg': dict(type='ScheduleToyGlobalLoop', **EPOCHS)},
            [4.0, 0.4],
        ),
        # The package's own loop.
        (
            dict(scale_rule='linear', base_batch_size=1),
            {'train_cfg': dict(type='GlobalBatchTrainLoop', global_batch_size=2, **EPOCHS)},
            [2.0, 0.2],
        ),
        # With a batch sampler, as in mmdet's recipes, the loader has no batch size.
        (
            dict(scale_rule='linear', base_batch_size=1),
            {'train_dataloader.batch_sampler': dict(type='AspectRatioBatchSampler')},
            [2.0, 0.2],
        ),
    ],
)
def test_scaled_base_lr_of_every_group(config, runner, settings, loop, expected):
    # lr_mult=0.1 on the head; the groups are backbone weight and bias, head weight and bias.
    paramwise = {'optim_wrapper.paramwise_cfg': dict(custom_keys=dict(head=dict(lr_mult=0.1)))}
    run = runner(config(hook(milestones=[], **settings), **paramwise, **loop))
    run.train()
    backbone, head = expected
    assert run.recorder.lrs[0] == pytest.approx([backbone, backbone, head, head], rel=1e-12)
    # What MMEngine logs as base_lr is scaled with them.
    assert run.optim_wrapper.get_lr()['base_lr'] == pytest.approx([backbone], rel=1e-12)


@pytest.mark.parametrize(
    ('settings', 'others', 'expected'),
    [
        (
            dict(milestones=[1, 2.5], gamma=0.5, warmup_iters=6, warmup_ratio=0.2),
            {},
            'global batch 2; LR 1 as configured; warmup of 6 updates (1.5 epochs) from x 0.2; '
            'x 0.5 at updates 4, 10 (epochs 1, 2.5); 12 updates, 4 an epoch',
        ),
        (
            dict(milestones=[], scale_rule='sqrt', base_batch_size=8),
            {'optim_wrapper.paramwise_cfg': dict(bias_lr_mult=2.0)},
            'global batch 2; LR 0.5 (groups from 0.5 to 1) by the sqrt rule, x 0.5 from 8; '
            'no warmup; no decay; 12 updates, 4 an epoch',
        ),
        (
            dict(milestones=[1], warmup_iters=0),
            {'train_dataloader.batch_sampler': dict(type='ScheduleToyBatchSampler')},
            'global batch unknown; LR 1 as configured; no warmup; x 0.1 at updates 2 (epochs 1); '
            '6 updates, 2 an epoch',
        ),
    ],
)
def test_says_once_what_it_resolved(config, runner, settings, others, expected):
    run = runner(config(hook(**settings), **others))
    run.train()
    run.test()
    assert len(summaries(run)) == 1
    assert summaries(run)[0].endswith(f'WarmupStepLRHook: {expected}')


def test_command_line_reaches_it(config, runner):
    # As `--cfg-options` of mmdet's tools parse them.
    cfg = config(hook(milestones=[1, 2], warmup_iters=3, warmup_ratio=0.1))
    cfg.merge_from_dict({'default_hooks.lr.warmup_iters': 7})
    parsed = DictAction._parse_iterable('[2]')
    cfg.merge_from_dict({'default_hooks.lr.milestones': parsed})
    run = runner(cfg)
    run.train()
    # 7 updates from 0.1 to 1 are rises of 0.15; one decay at update 8.
    expected = [0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1, 1, 0.1, 0.1, 0.1, 0.1]
    assert run.recorder.first == pytest.approx(expected, rel=1e-12)


def test_the_unit_of_the_warmup_can_be_changed_from_the_command_line(config, runner):
    cfg = config(hook(milestones=[], warmup_iters=3, warmup_ratio=0.1))
    cfg.merge_from_dict({'default_hooks.lr.warmup_epochs': 0.5})
    with pytest.raises(ValueError, match=r'set default_hooks\.lr\.warmup_iters=None'):
        runner(cfg)
    none = DictAction._parse_iterable('None')
    cfg.merge_from_dict({'default_hooks.lr.warmup_iters': none})
    run = runner(cfg)
    run.train()
    # Half an epoch is 2 updates.
    assert run.recorder.first == pytest.approx([0.1] + [1] * 11, rel=1e-12)


@pytest.mark.parametrize('stage', ['test', 'val'])
def test_a_test_touches_nothing_of_the_training(config, runner, stage):
    cfg = config(hook(milestones=[99]), auto_scale_lr=dict(enable=True, base_batch_size=1))
    cfg.merge_from_dict(dict(val_dataloader=cfg.test_dataloader, val_cfg=dict(), val_evaluator=[]))
    run = runner(cfg)  # whose training is refused, twice over
    getattr(run, stage)()
    assert run.param_schedulers is None
    assert isinstance(run._train_loop, dict) and isinstance(run.optim_wrapper, dict)
    assert summaries(run) == []


def test_a_test_after_the_training_leaves_the_schedule_there(config, runner):
    run = runner(config(hook(milestones=[1], scale_rule='linear', base_batch_size=1)))
    run.train()
    schedulers, lr = run.param_schedulers, run.optim_wrapper.get_lr()['lr']
    run.test()
    assert run.param_schedulers is schedulers
    # Batch 2 on a base of 1 doubles the LR, once; then one decay.
    assert run.optim_wrapper.get_lr()['lr'] == lr == pytest.approx([0.2])


def test_scheduler_named_in_param_scheduler(config, runner):
    # Without the hook, in updates: MMEngine builds it, with an `end` of its own making.
    scheduler = dict(type='WarmupStepLR', warmup_iters=2, milestones=[5], warmup_ratio=0.5)
    cfg = config(dict(type='IterTimerHook'), param_scheduler=scheduler)
    run = runner(cfg)
    run.train()
    assert isinstance(run.param_schedulers[0], WarmupStepLR)
    assert run.recorder.first == pytest.approx([0.5] + [1] * 4 + [0.1] * 7, rel=1e-12)


def test_empty_param_scheduler_is_none(config, runner):
    run = runner(config(hook(milestones=[2]), param_scheduler=[]))
    run.train()
    assert run.recorder.first == pytest.approx([1] * 8 + [0.1] * 4, rel=1e-12)


def test_recipes_inherit_and_override_it(tmp_path, config, runner):
    # The form of a recipe file: the base sets the hook, the recipe names what differs.
    base, recipe = tmp_path / 'base.py', tmp_path / 'recipe.py'
    base.write_text(
        "default_hooks = dict(lr=dict(type='WarmupStepLRHook', warmup_iters=2, milestones=[1]))\n"
    )
    recipe.write_text(
        "_base_ = './base.py'\n"
        'default_hooks = dict(lr=dict(milestones=[2], warmup_ratio=0.5, gamma=0.5))\n'
    )
    run = runner(config(Config.fromfile(recipe).default_hooks.lr))
    run.train()
    assert run.recorder.first == pytest.approx([0.5] + [1] * 7 + [0.5] * 4, rel=1e-12)
