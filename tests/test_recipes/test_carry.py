"""Carried recipes as a whole, beside the recipes of this project."""

import runpy

import pytest
from helpers.carrying import DINO, MASK_RCNN, RTMDET, YOLOX, built, leaves, stock, values, written
from helpers.common import ROOT, without_scope
from mmengine.config import Config
from mmengine.hub import get_config

from mmdet_largebatch import carry_recipe
from mmdet_largebatch.planning import make_plan


@pytest.mark.parametrize(
    ('recipe', 'optimizer'),
    [('64xb2-sgd-1x', None), ('64xb2-lars-1x', 'LARS'), ('64xb2-lamb-1x', 'LAMB')],
)
def test_the_recipes_at_batch_128_come_from_the_1x_config(recipe, optimizer, tmp_path):
    """Every setting of the project's recipe, and no other, is written into the file."""
    _, changes = carry_recipe(stock(MASK_RCNN), 128, optimizer)
    cfg = Config.fromfile(written(MASK_RCNN, changes, tmp_path))
    ours = Config.fromfile(ROOT / f'configs/mask_rcnn/mask-rcnn_r50_fpn_{recipe}_coco.py')
    if optimizer is not None:
        # By dimensions and by names: the same options of each tensor.
        models, options = zip(built(cfg), built(ours), strict=True)
        for pair in zip(*(model.parameters() for model in models), strict=True):
            assert options[0][pair[0]] == options[1][pair[1]]
        del cfg.optim_wrapper.paramwise_cfg, ours.optim_wrapper.paramwise_cfg
    assert without_scope(cfg.to_dict()) == without_scope(ours.to_dict())


def assigned(path):
    """The settings that a config file itself assigns, by path."""
    names = runpy.run_path(str(path))
    return leaves({name: value for name, value in names.items() if not name.startswith('_')})


def test_the_recipe_of_sgd_line_for_line(tmp_path):
    """The file has the lines of the project's two recipe files that differ from the 1x config's."""
    base = leaves(without_scope(get_config(MASK_RCNN).to_dict()))
    _, changes = carry_recipe(stock(MASK_RCNN), 128)
    carried = assigned(written(MASK_RCNN, changes, tmp_path))
    shared = assigned(ROOT / 'configs/_base_/mask-rcnn_r50_fpn_coco.py')
    recipe = shared | assigned(ROOT / 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-sgd-1x_coco.py')
    differ = {path: x for path, x in recipe.items() if path not in base or base[path] != x}
    assert carried == differ
    assert carried['optim_wrapper', 'optimizer', 'lr'] == 0.16
    assert carried['default_hooks', 'lr', 'warmup_iters'] == 625


def test_dino_from_16_to_128():
    cfg, changes = carry_recipe(stock(DINO), 128)
    # AdamW: 1e-4 x sqrt(8).
    assert cfg.optim_wrapper.optimizer.lr == 0.000282843
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4
    assert cfg.optim_wrapper.paramwise_cfg == stock(DINO).optim_wrapper.paramwise_cfg
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.1, norm_type=2)
    hook = cfg.default_hooks.lr
    assert (hook.milestones, hook.gamma, hook.warmup_iters) == ([11], 0.1, 0)
    assert cfg.train_cfg.global_batch_size == 128 and cfg.train_cfg.max_epochs == 12
    linear, _ = carry_recipe(stock(DINO), 128, lr_rule='linear')
    assert linear.optim_wrapper.optimizer.lr == 0.0008


def test_rtmdet_from_256_to_64():
    """Its auto_scale_lr, inherited, says 16; its name says 256."""
    cfg, changes = carry_recipe(stock(RTMDET), 64)
    assert values(changes) == {
        'custom_imports.imports': ['mmdet_largebatch'],
        'custom_imports.allow_failed_imports': False,
        'train_cfg.type': 'GlobalBatchTrainLoop',
        'train_cfg.global_batch_size': 64,
        'optim_wrapper.optimizer.lr': 0.002,  # 0.004 x sqrt(1 / 4)
        'optim_wrapper.constructor': 'MergedGroupsConstructor',
        'param_scheduler.0.end': 4000,  # 1,000 x 4
        'param_scheduler.1.eta_min': 0.0001,  # 0.05 x LR, as before
        'default_hooks.checkpoint.type': 'AtomicCheckpointHook',
        'default_hooks.preemption.type': 'PreemptionHook',
        'default_hooks.divergence.type': 'DivergenceHook',
        'default_hooks.logger.interval': 200,
        'custom_hooks.0.momentum': 5.00038e-05,  # 1 - 0.9998^(1 / 4)
        'custom_hooks.0.gamma': 8000,
        'auto_scale_lr': None,
    }
    before = stock(RTMDET)
    assert cfg.custom_hooks[1] == before.custom_hooks[1]  # PipelineSwitchHook at its epoch
    assert cfg.train_cfg.dynamic_intervals == before.train_cfg.dynamic_intervals
    assert cfg.param_scheduler[1].begin == 150 and cfg.param_scheduler[1].T_max == 150
    said = ' '.join(change.why for change in changes if change.stays)
    assert 'CachedMosaic, CachedMixUp' in said and 'SyncBN' in said


def test_yolox_from_64_to_128():
    cfg, changes = carry_recipe(stock(YOLOX), 128)
    carried = values(changes)
    assert carried['optim_wrapper.optimizer.lr'] == 0.02
    assert carried['custom_hooks.2.momentum'] == 0.00019999
    assert carried['param_scheduler.1.eta_min'] == 0.001
    # A random input size every 10 iterations.
    assert carried['model.data_preprocessor.batch_augments.0.interval'] == 5
    # Its warmup is in epochs.
    assert cfg.param_scheduler[0] == stock(YOLOX).param_scheduler[0]


def test_accumulation_counts_for_the_lr_and_not_for_iterations():
    """16 images an iteration and 64 an update become 128 an update."""
    cfg = stock(MASK_RCNN)
    cfg.optim_wrapper.accumulative_counts = 4
    carried, changes = carry_recipe(cfg, 128)
    assert carried.optim_wrapper.optimizer.lr == 0.04
    assert carried.optim_wrapper.accumulative_counts == 1
    assert carried.default_hooks.logger.interval == 6


PLACES = pytest.mark.parametrize('place', [('default_hooks', 'lr'), ('custom_hooks', 1)])


def with_hook_at(place, recipe):
    """A recipe of this project with its WarmupStepLRHook here, as a custom hook after another."""
    cfg = Config.fromfile(ROOT / f'configs/mask_rcnn/mask-rcnn_r50_fpn_{recipe}-sgd-1x_coco.py')
    if place[0] == 'custom_hooks':
        cfg.custom_hooks = [cfg.default_hooks.pop(key) for key in ('divergence', 'lr')]
    return cfg


@PLACES
def test_a_recipe_of_this_project_is_carried_again(place, tmp_path):
    """From 128 back to 16: the LR, the warmup and the interval of the baseline."""
    cfg = with_hook_at(place, '64xb2')
    cfg.train_cfg.max_updates = 100
    cfg.dump(tmp_path / 'mine.py')
    carried, changes = carry_recipe(cfg, 16)
    assert values(changes) == {
        'train_cfg.global_batch_size': 16,
        'train_cfg.max_updates': 800,
        'optim_wrapper.optimizer.lr': 0.02,
        # 625 updates of 128 images.
        f'{place[0]}.{place[1]}.warmup_iters': 5000,
        'default_hooks.logger.interval': 48,
    }
    assert not any('schedule' in change.why for change in changes)
    again = Config.fromfile(written('mine.py', changes, tmp_path))
    assert without_scope(again.to_dict()) == without_scope(carried.to_dict())


@PLACES
def test_a_hook_that_scales_the_lr_goes_on_to_do_so(place):
    cfg = with_hook_at(place, '8xb2')
    cfg[place[0]][place[1]].update(scale_rule='linear', base_batch_size=16)
    carried, _ = carry_recipe(cfg, 128)
    assert carried.optim_wrapper.optimizer.lr == 0.02
    assert carried[place[0]][place[1]].scale_rule == 'linear'
    # The LR of another optimizer is that of the new batch.
    changed, _ = carry_recipe(cfg, 128, 'LAMB')
    assert changed.optim_wrapper.optimizer.lr == 0.00125
    assert changed[place[0]][place[1]].scale_rule is None
    assert changed[place[0]][place[1]].base_batch_size is None


def test_a_pure_python_config_is_carried_in_python():
    """Its types are classes; the plan builds what it resolves to."""
    cfg = Config.fromfile(ROOT / 'tests/helpers/pure_python/base.py')
    carried, changes = carry_recipe(cfg, 32)
    plan = make_plan(carried, 1, 512)
    assert (plan.global_batch, plan.schedule) == (32, 'WarmupStepLRHook')
    assert plan.lr == pytest.approx(2 * cfg.optim_wrapper.optimizer.lr)
