"""`auto_scale_lr` of MMDetection under GlobalBatchTrainLoop: as `scale_rule`, by the optimizer."""

from pathlib import Path

import pytest

LOOP = dict(_delete_=True, type='GlobalBatchTrainLoop', max_epochs=3, global_batch_size=8)
# The toy's 8 images in updates of 8, from an LR of 1 at batch 2. LAMB and AdamW: the square root.
LRS = {'SGD': 4.0, 'LARS': 4.0, 'AdamW': 2.0, 'Adam': 2.0, 'LAMB': 2.0}


def scaled(config, hook, name='SGD', base=2, **others):
    return config(
        hook,
        train_cfg=dict(LOOP),
        auto_scale_lr=dict(enable=True, base_batch_size=base),
        optim_wrapper=dict(optimizer=dict(type=name, lr=1.0)),
        **others,
    )


def log_of(run):
    [path] = Path(run.work_dir).glob('*/*.log')
    return path.read_text()


@pytest.mark.parametrize('name', LRS)
def test_mmengines_schedule(config, runner, name):
    steps = dict(type='MultiStepLR', milestones=[2], by_epoch=True)
    cfg = scaled(config, dict(type='IterTimerHook'), name, param_scheduler=steps)
    run = runner(cfg)
    run.train()
    lr = LRS[name]
    assert run.recorder.first == pytest.approx([lr, lr, lr / 10], rel=1e-12)
    lines = [line for line in log_of(run).splitlines() if 'auto_scale_lr: ' in line]
    assert len(lines) == 1
    rule = 'linear' if lr == 4 else 'sqrt'
    wanted = f'global batch 8; LR x {lr:g} by the {rule} rule of {name}, from 2'
    assert lines[0].endswith(f'auto_scale_lr: {wanted}')


@pytest.mark.parametrize('name', LRS)
def test_the_same_as_scale_rule(config, runner, name):
    settings = dict(type='WarmupStepLRHook', milestones=[2], warmup_iters=2, warmup_ratio=0.5)
    run = runner(scaled(config, dict(settings), name))
    run.train()
    rule = 'linear' if LRS[name] == 4 else 'sqrt'
    by_hand = dict(settings, scale_rule=rule, base_batch_size=2)
    other = runner(
        config(by_hand, train_cfg=dict(LOOP), optim_wrapper=dict(optimizer=dict(type=name, lr=1.0)))
    )
    other.train()
    lr = LRS[name]
    assert run.recorder.first == other.recorder.first == pytest.approx([lr / 2, lr, lr / 10])
    wanted = f'LR {lr:g} by the {rule} rule, x {lr:g} from 2'
    assert log_of(run).count(wanted) == log_of(other).count(wanted) == 1


def test_outside_the_loop_it_is_mmengines_own(config, runner):
    """Linear for every optimizer, by ranks x batch size."""
    cfg = config(
        dict(type='IterTimerHook'),
        auto_scale_lr=dict(enable=True, base_batch_size=1),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1.0)),
    )
    run = runner(cfg)
    run.train()
    assert run.recorder.first == pytest.approx([2.0] * 12)
    assert 'LR is set based on batch size of 1 and the current batch size is 2' in log_of(run)


@pytest.mark.parametrize(
    ('hook', 'name', 'base', 'message'),
    [
        ({}, 'SGD', 0, r'auto_scale_lr\.base_batch_size=0\. Must be an integer >= 1\.'),
        ({}, 'RMSprop', 2, r"type='RMSprop'\. Must be one whose LR has a rule \(SGD, LARS, LAMB"),
        (
            dict(scale_rule='linear', base_batch_size=2),
            'SGD',
            2,
            r"scale_rule='linear'\. Must be None with auto_scale_lr\.enable=True",
        ),
    ],
)
def test_refused(config, runner, hook, name, base, message):
    hook = dict(type='WarmupStepLRHook', milestones=[], **hook)
    with pytest.raises(ValueError, match=message):
        runner(scaled(config, hook, name, base)).train()
