"""Real trainings stopped after update 5 of 12 (4 an epoch), and resumed from the checkpoint."""

from pathlib import Path

import pytest
import torch

SETTINGS = dict(milestones=[1, 2], gamma=0.5, warmup_iters=3, warmup_ratio=0.2)
# Warmup 0.2, 0.6, 1; halved at updates 4 and 8.
WHOLE = [0.2, 0.6, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
# MMEngine's loop repeats the epoch of the checkpoint. A run resumed within an epoch therefore runs
# past 12 updates: these tests compare updates 5 to 11.
LEFT = slice(0, 7)


# A checkpoint after every update.
SAVE = {'default_hooks.checkpoint.interval': 1}


def hook(**changed):
    return dict(type='WarmupStepLRHook', **{**SETTINGS, **changed})


@pytest.fixture
def checkpoint(config, runner):
    run = runner(config(hook(), **SAVE))
    run.train()
    assert run.recorder.first == pytest.approx(WHOLE, rel=1e-12)
    return Path(run.work_dir) / 'iter_5.pth'


@pytest.fixture
def resumed(config, runner, checkpoint):
    """A function that resumes with other settings and returns the Runner and LRs from update 5."""

    def run(changed=None, **others):
        cfg = config(hook(**(changed or {})), load_from=str(checkpoint), resume=True, **others)
        built = runner(cfg)
        built.train()
        return built, built.recorder.first[LEFT]

    return run


def test_checkpoint_holds_the_update_alone(checkpoint):
    saved = torch.load(checkpoint, weights_only=False)
    assert saved['param_schedulers'] == [{'update': 5}]
    # The optimizer's state holds the old LR, which must not be used in the tests below.
    assert saved['optimizer']['param_groups'][0]['initial_lr'] == 1.0


def test_resumed_run_sees_the_lr_of_the_whole_one(resumed):
    _, lrs = resumed()
    assert lrs == pytest.approx(WHOLE[5:], rel=1e-12)


@pytest.mark.parametrize(
    ('changed', 'others', 'expected'),
    [
        # The first milestone, passed before, is taken back; the second comes at update 10.
        (dict(milestones=[2.5]), {}, [1, 1, 1, 1, 1, 0.5, 0.5]),
        (dict(gamma=0.1), {}, [0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01]),
        # 11 updates of warmup from 0.2 are rises of 0.08: 0.6, 0.68, ... 1 at update 10.
        (dict(milestones=[], warmup_iters=11), {}, [0.6, 0.68, 0.76, 0.84, 0.92, 1, 1]),
        (
            dict(),
            {'optim_wrapper.optimizer.lr': 3.0},
            [1.5, 1.5, 1.5, 0.75, 0.75, 0.75, 0.75],
        ),
        # Batch 2 on a base of 8: the LR of the config times 1/4, whatever was saved.
        (
            dict(scale_rule='linear', base_batch_size=8),
            {},
            [0.125, 0.125, 0.125, 0.0625, 0.0625, 0.0625, 0.0625],
        ),
    ],
)
def test_settings_changed_in_the_config_hold_after_resuming(resumed, changed, others, expected):
    run, lrs = resumed(changed, **others)
    assert lrs == pytest.approx(expected, rel=1e-12)
    base_lr = others.get('optim_wrapper.optimizer.lr', 1.0)
    base_lr *= 0.25 if 'scale_rule' in changed else 1
    assert run.optim_wrapper.param_groups[0]['initial_lr'] == base_lr


def test_groups_and_the_logged_base_lr_are_set_again(config, runner):
    paramwise = {'optim_wrapper.paramwise_cfg': dict(custom_keys=dict(head=dict(lr_mult=0.1)))}
    first = runner(config(hook(), **SAVE, **paramwise))
    first.train()
    cfg = config(
        hook(),
        load_from=str(Path(first.work_dir) / 'iter_8.pth'),
        resume=True,
        **paramwise,
        **{'optim_wrapper.optimizer.lr': 4.0},
    )
    run = runner(cfg)
    run.train()
    # Two milestones passed: a quarter of 4, and of 0.4 on the head.
    assert run.recorder.lrs[0] == pytest.approx([1.0, 1.0, 0.1, 0.1], rel=1e-12)
    assert run.optim_wrapper.get_lr()['base_lr'] == pytest.approx([1.0], rel=1e-12)


def test_another_number_of_groups_is_the_optimizers_own_error(resumed):
    with pytest.raises(ValueError, match='different number of parameter groups'):
        resumed(**{'optim_wrapper.paramwise_cfg': dict(bias_lr_mult=2.0)})


def test_checkpoint_without_schedulers_goes_on_at_the_loops_update(checkpoint, resumed):
    saved = torch.load(checkpoint, weights_only=False)
    del saved['param_schedulers']
    torch.save(saved, checkpoint)
    run, lrs = resumed({}, **{'optim_wrapper.optimizer.lr': 2.0})
    assert lrs == pytest.approx([2 * lr for lr in WHOLE[5:]], rel=1e-12)
    log = (Path(run.log_dir) / f'{run.timestamp}.log').read_text()
    assert log.count('the checkpoint holds update 5 and a schedule at update 0') == 1


def test_checkpoint_of_mmengines_schedulers_is_refused(config, runner):
    theirs = config(
        dict(type='IterTimerHook'),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.2, by_epoch=False, begin=0, end=3),
            dict(type='MultiStepLR', milestones=[1, 2]),
        ],
        **SAVE,
    )
    first = runner(theirs)
    first.train()
    cfg = config(hook(), load_from=str(Path(first.work_dir) / 'iter_5.pth'), resume=True)
    with pytest.raises(ValueError, match='another scheduler wrote it'):
        runner(cfg).train()


def test_optimizer_loaded_before_the_training_is_refused(config, runner, checkpoint):
    run = runner(config(hook()))
    run.resume(str(checkpoint))
    with pytest.raises(ValueError, match=r'resume=False\. Must be True, with the checkpoint as'):
        run.train()
