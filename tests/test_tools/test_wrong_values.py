"""A setting that MMEngine, MMDetection or PyTorch refuses ends a tool with one line."""

import inspect
import re

import pytest
import torch
from helpers.tools import assert_one_line
from mmdet.registry import HOOKS, MODELS
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import DefaultOptimWrapperConstructor

from mmdet_largebatch.cli.runner_settings import PARAMWISE, check_runner_settings

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
LEFT_OUT = 'Must be left out: '


@pytest.mark.parametrize(
    ('option', 'must'),
    [
        ('train_dataloader.num_worker=2', LEFT_OUT + 'DataLoader does not take it.'),
        ("test_dataloader.num_workers='two'", 'Must be an integer >= 0.'),
        ('randomness.sed=3', LEFT_OUT + 'set_randomness does not take it.'),
        ("randomness.seed='abc'", 'Must be an integer from 0 to 2**32 - 1, or None'),
        ('randomness.seed=-1', 'Must be an integer from 0 to 2**32 - 1, or None'),
        ("log_level='INFOO'", "Must be 'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'."),
        ("env_cfg.mp_cfg.mp_start='fork'", LEFT_OUT + 'set_multi_processing does not take it.'),
        ("env_cfg.dist_cfg.backnd='x'", LEFT_OUT + 'init_process_group does not take it.'),
        # These two are met at the first save, after an epoch.
        ('default_hooks.checkpoint.max_keep=3', LEFT_OUT + 'save_checkpoint does not take it.'),
        ("default_hooks.checkpoint.interval='x'", 'Must be an integer; -1 for no limit.'),
        ("default_hooks.logger.priority='ABOVE'", 'Must be one of HIGHEST, VERY_HIGH, HIGH,'),
        ('optim_wrapper.clip_grad.max_nrm=3', LEFT_OUT + 'clip_grad_norm_ does not take it.'),
    ],
)
def test_before_anything_is_built(train, option, must):
    done = train(option.replace("'", ''))
    assert_one_line(done, f'error: Invalid {option}. {must}')
    assert 'creating index' not in done.stdout


@pytest.mark.parametrize(
    ('setting', 'line'),
    [
        ('model = dict(backbone=dict(depth=19))', 'model.backbone (ResNet): invalid depth 19 for'),
        # An assertion without words.
        ('model = dict(neck=dict(num_outs=1))', 'model.neck (FPN): it must hold: num_outs >= self'),
        # MMEngine's hook, in its constructor and in one that it calls before the training.
        ('default_hooks = dict(logger=dict(interval=0))', 'default_hooks.logger (LoggerHook): int'),
        (
            "custom_hooks = [dict(type='EMAHook', momentumm=0.2)]\n"
            'default_hooks = dict(lr=dict(warmup_iters=1))',
            'custom_hooks.0.momentumm=0.2. Must be left out: ExponentialMovingAverage does not',
        ),
        # An error of Python's own.
        (
            "param_scheduler = [dict(type='MultiStepLR', milestones=8)]\n"
            'default_hooks = dict(lr=None)',
            "param_scheduler.0 (MultiStepLR): TypeError: 'int' object is not iterable.",
        ),
        ('val_dataloader = dict(batch_size=0)', 'val_dataloader (DataLoader): batch_size should'),
        (
            "train_dataloader = dict(collate_fn=dict(type='pseudo'))",
            "train_dataloader.collate_fn.type='pseudo'. Must be the name of a registered function.",
        ),
        (
            "optim_wrapper = dict(clip_grad=dict(type='valu'))",
            'optim_wrapper (OptimWrapper): type of clip_grad should be "norm" or "value" but got',
        ),
    ],
)
def test_refused_by_a_constructor(train, setting, line):
    assert_one_line(train(settings=setting), f'error: Invalid {line}')


class Strict(Hook):
    """A user's hook that may have a fault."""

    def __init__(self, interval):
        raise ValueError('my own fault')


class StrictLoss(torch.nn.Module):
    """A user's loss, which MMDetection's head builds."""

    def __init__(self):
        super().__init__()
        torch.nn.Linear(2, -1)


def test_a_users_own_class_keeps_its_traceback(train, monkeypatch):
    monkeypatch.setitem(HOOKS.module_dict, 'Strict', Strict)
    monkeypatch.setitem(MODELS.module_dict, 'StrictLoss', StrictLoss)
    for option in (
        'custom_hooks=[{"type":"Strict","interval":1}]',
        'model.rpn_head.loss_cls={"_delete_":True,"type":"StrictLoss"}',
    ):
        done = train(option)
        assert done.returncode == 1 and 'Traceback' in done.stderr


def test_factors_that_mmengine_ignores_are_a_warning(tool):
    """The names are those that MMEngine's constructor reads, and perhaps more."""
    read = inspect.getsource(DefaultOptimWrapperConstructor)
    names = set(re.findall(r"paramwise_cfg(?:\.get\(|\[)?\s*'(\w+)'", read))
    assert names and names <= PARAMWISE
    done = tool('plan.py', RECIPE, '--cfg-options', 'optim_wrapper.paramwise_cfg.norm_decay_mul=0')
    line = 'warning: optim_wrapper.paramwise_cfg.norm_decay_mul is ignored: no such factor.\n'
    assert line in done.stderr


@pytest.mark.parametrize(
    'settings',
    [
        dict(train_dataloader=dict(pin_memory=True, drop_last=True, num_batch_per_epoch=3)),
        dict(train_dataloader=dict(disable_subprocess_warning=True, collate_fn=dict(type='a.b'))),
        dict(randomness=dict(seed=None, deterministic=True, diff_rank_seed=True)),
        dict(env_cfg=dict(dist_cfg=dict(backend='gloo', timeout=3, init_backend='torch', port=9))),
        dict(env_cfg=dict(mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))),
        dict(env_cfg=dict(cudnn_benchmark=True, mp_cfg=None), log_level=10),
        dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False))),
        dict(
            default_hooks=dict(
                checkpoint=dict(
                    type='AtomicCheckpointHook',
                    every_minutes=1,
                    interval=-1,
                    max_keep_ckpts=-1,
                    save_best=['a'],
                    rule=['less'],
                    published_keys=['meta'],
                    priority=70,
                )
            )
        ),
        dict(custom_hooks=[dict(type='EMAHook', priority='very_low'), Hook()]),
        dict(optim_wrapper=dict(clip_grad=dict(type='value', clip_value=1))),
        dict(optim_wrapper=dict(clip_grad=dict(max_norm=1, norm_type=2, error_if_nonfinite=True))),
        dict(optim_wrapper=dict(one=dict(optimizer=dict(), clip_grad=None), constructor='Own')),
    ],
)
def test_what_is_right_is_not_refused(settings, capsys):
    check_runner_settings(Config(settings))
    assert capsys.readouterr().err == ''
