"""Recipes that are carried: what they resolve to, and configs that are refused."""

import runpy
from copy import deepcopy
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from helpers.common import ROOT, without_scope
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from mmdet_largebatch import SettingError, carry_recipe
from mmdet_largebatch.compat import config_path
from mmdet_largebatch.planning import make_plan
from mmdet_largebatch.recipes import recipe_text

MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
DINO = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
HRNET = 'mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py'
SWIN = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
RTMDET = 'mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py'
YOLOX = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'


def stock(name):
    """A config of MMDetection's with its file's name, which `get_config` loses."""
    return deepcopy(read(name))


@lru_cache
def read(name):
    return Config.fromfile(config_path(name))


def leaves(node, path=()):
    """The settings of nested dicts by path; a list is one value."""
    if isinstance(node, dict) and node:
        return {k: v for key in node for k, v in leaves(node[key], (*path, key)).items()}
    return {path: node}


def written(name, changes, folder, out='recipe.py'):
    path = folder / out
    path.write_text(recipe_text(name, changes, 'A recipe.'))
    return path


def built(cfg, device='meta'):
    """The model of a config, and the options of each tensor's group."""
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device(device):
        model = MODELS.build(cfg.model)
        groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    hidden = ('params', 'param_names')
    options = [{key: group[key] for key in group if key not in hidden} for group in groups]
    return model, {
        p: of for group, of in zip(groups, options, strict=True) for p in group['params']
    }


def values(changes):
    return {change.key: change.new for change in changes if not change.stays}


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


@pytest.mark.parametrize(
    ('name', 'optimizer', 'said'),
    [
        (DINO, 'LAMB', 'LAMB on a detector: no published LR, tune it with tools/sweep.py'),
        (MASK_RCNN, 'LARS', 'LARS on a detector: no published LR, tune it with tools/sweep.py'),
        (DINO, 'SGD', 'not the optimizer that this config was tuned with, tune it'),
        (MASK_RCNN, 'AdamW', 'not the optimizer that this config was tuned with, tune it'),
    ],
)
def test_what_no_rule_is_known_for_is_said(name, optimizer, said, tmp_path):
    cfg, changes = carry_recipe(stock(name), 128, optimizer)
    [change] = [x for x in changes if x.key == 'optim_wrapper.optimizer.lr']
    assert said in change.why
    text = written(name, changes, tmp_path).read_text()
    assert said in ' '.join(text.replace('#', '').split())
    assert cfg.optim_wrapper.optimizer.type == optimizer
    if name == DINO and optimizer == 'LAMB':
        # DINO's own clipping would be a second one.
        assert cfg.optim_wrapper.clip_grad is None


@pytest.mark.parametrize(
    ('name', 'optimizer', 'device'),
    [
        (HRNET, 'LARS', 'meta'),
        (DINO, 'LARS', 'meta'),
        # It computes its drop rates while it is built.
        (SWIN, 'LARS', 'cpu'),
        (DINO, 'LAMB', 'meta'),
    ],
)
def test_no_bias_and_no_norm_parameter_is_adapted(name, optimizer, device):
    """By the tensors of the built model, whatever their names and the keys of the config."""
    cfg, _ = carry_recipe(stock(name), 128, optimizer)
    before = stock(name).optim_wrapper.get('paramwise_cfg') or {}
    assert cfg.optim_wrapper.paramwise_cfg.get('custom_keys') == before.get('custom_keys')
    model, of_tensor = built(cfg, device)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    for p in trained:
        assert p.ndim > 1 or of_tensor[p]['weight_decay'] == 0
        assert of_tensor[p].get('lars_exclude', False) == (optimizer == 'LARS' and p.ndim <= 1)


@pytest.mark.parametrize('optimizer', ['LARS', 'LAMB'])
def test_a_constructor_without_flat_options_is_named(optimizer):
    cfg = stock(MASK_RCNN)
    cfg.optim_wrapper.constructor = 'LearningRateDecayOptimizerConstructor'
    carried, changes = carry_recipe(cfg, 128, optimizer)
    assert 'paramwise_cfg' not in carried.optim_wrapper
    [why] = [x.why for x in changes if 'flat_options' in x.why]
    excluded = ', lars_exclude=True' if optimizer == 'LARS' else ''
    assert why.endswith(f'biases and norm parameters need weight_decay=0.0{excluded}')


def test_options_of_lars_do_not_stay_with_another_optimizer(tmp_path):
    """LAMB's groups have no lars_exclude."""
    _, changes = carry_recipe(stock(MASK_RCNN), 128, 'LARS')
    path = written(MASK_RCNN, changes, tmp_path)
    for optimizer in ('LAMB', 'AdamW'):
        cfg, changes = carry_recipe(Config.fromfile(path), 64, optimizer)
        assert cfg.optim_wrapper.paramwise_cfg.flat_options == dict(weight_decay=0.0)
        again = Config.fromfile(written('recipe.py', changes, tmp_path, f'{optimizer}.py'))
        assert without_scope(again.to_dict()) == without_scope(cfg.to_dict())


def test_lrs_of_custom_keys_are_carried(tmp_path):
    """As --auto-scale-lr scales them: each group, whatever set its LR."""
    cfg = stock(DINO)
    keys = dict(lr=1e-5, decay_mult=0.5)
    cfg.optim_wrapper.paramwise_cfg = dict(
        custom_keys={'backbone.layer1': keys, 'neck': dict(lr_mult=0.1)},
        flat_options=dict(lr=2e-4),
    )
    cfg.dump(tmp_path / 'mine.py')
    carried, changes = carry_recipe(cfg, 64, lr_rule='linear')
    options = carried.optim_wrapper.paramwise_cfg
    assert options.custom_keys == {
        'backbone.layer1': dict(lr=4e-5, decay_mult=0.5),
        'neck': dict(lr_mult=0.1),
    }
    assert options.flat_options == dict(lr=8e-4)
    again = Config.fromfile(written('mine.py', changes, tmp_path))
    assert without_scope(again.to_dict()) == without_scope(carried.to_dict())
    # Another optimizer needs LRs of its own.
    changed, changes = carry_recipe(cfg, 64, 'LAMB')
    assert changed.optim_wrapper.paramwise_cfg.custom_keys['backbone.layer1'] == keys
    assert 'LRs of the old optimizer' in ' '.join(x.why for x in changes if x.stays)


def test_an_optimizer_without_a_rule_keeps_its_lr():
    cfg = stock(MASK_RCNN)
    cfg.optim_wrapper.optimizer = dict(type='RMSprop', lr=0.001)
    carried, changes = carry_recipe(cfg, 128)
    assert carried.optim_wrapper.optimizer.lr == 0.001
    assert 'no rule is known for the LR of RMSprop' in ' '.join(x.why for x in changes if x.stays)


def several(cfg):
    cfg.optim_wrapper = dict(
        constructor='Several', backbone=dict(optimizer=dict(type='SGD')), head=dict(optimizer={})
    )


def without_base(cfg):
    cfg.auto_scale_lr = None


@pytest.mark.parametrize(
    ('name', 'change', 'arguments', 'message'),
    [
        (
            MASK_RCNN,
            without_base,
            {},
            r'base_batch=None\. Must be given by --base-batch, .* 8xb2\.',
        ),
        (MASK_RCNN, several, {}, r"optim_wrapper=\['backbone', 'head'\]\. Must be a single opti"),
        (
            'mmdet::retinanet/retinanet_r50_fpn_90k_coco.py',
            None,
            {},
            r"type='IterBasedTrainLoop'\. Must be Epoch.* by iterations has no epochs",
        ),
        (MASK_RCNN, None, dict(global_batch=127), r'=127\. Must be a multiple .* such as 126\.'),
        (RTMDET, None, dict(global_batch=16), r'=16\. Must be a multiple .*batch_size=32, the mi'),
        (MASK_RCNN, None, dict(global_batch=0), r'global_batch=0\. Must be an integer >= 1'),
        (MASK_RCNN, None, dict(base_batch=0), r'base_batch=0\. Must be an integer >= 1'),
        (MASK_RCNN, None, dict(optimizer='Lion'), r"optimizer='Lion'\. Must be one of 'SGD'"),
        (MASK_RCNN, None, dict(lr_rule='cubic'), r"lr_rule='cubic'\. Must be one of 'linear'"),
    ],
)
def test_refused_in_one_line(name, change, arguments, message):
    cfg = stock(name)
    if change is not None:
        change(cfg)
    with pytest.raises(SettingError, match=message) as error:
        carry_recipe(cfg, **dict(dict(global_batch=128), **arguments))
    assert '\n' not in str(error.value)


NAMED, DEFAULT = "4xb8 in the file's name says 8 images", "MMDetection's schedules say auto_scale"


@pytest.mark.parametrize(
    ('name', 'auto', 'given', 'micro_batch', 'batch', 'doubt'),
    [
        ('mask-rcnn_r50_4xb2-1x_coco.py', None, None, 2, 8, ''),
        ('mask-rcnn_r50_4xb2-1x_coco.py', 8, None, 2, 8, ''),
        # The name fits the micro-batch of 2: auto_scale_lr is inherited.
        ('mask-rcnn_r50_4xb2-1x_coco.py', 16, None, 2, 8, ''),
        # It does not fit: the name is older than the config.
        ('mask-rcnn_r50_4xb8-1x_coco.py', 16, None, 2, 16, NAMED),
        # Of both numbers only that of the name can be made of micro-batches of 2.
        ('mask-rcnn_r50_4xb8-1x_coco.py', 15, None, 2, 32, NAMED),
        ('mask-rcnn_r50_4xb2-1x_coco.py', 16, 64, 2, 64, ''),
        ('resnext32xb8d.py', 16, None, 2, 16, ''),
        # As in cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py, whose LR is meant for 8.
        ('mask-rcnn_r50_1x_cityscapes.py', 16, None, 1, 16, DEFAULT),
        ('mask-rcnn_r50_16xb1-1x_coco.py', 16, None, 1, 16, ''),
        ('mask-rcnn_r50_1x_cityscapes.py', 8, None, 1, 8, ''),
    ],
)
def test_where_the_base_batch_comes_from(name, auto, given, micro_batch, batch, doubt, tmp_path):
    path = Path(tmp_path) / name
    path.write_text(
        f'_base_ = {MASK_RCNN!r}\nauto_scale_lr = {dict(base_batch_size=auto)}\n'
        f'train_dataloader = dict(batch_size={micro_batch})\n'
    )
    cfg, changes = carry_recipe(Config.fromfile(path), 128, base_batch=given)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.02 * 128 / batch)
    said = [change.why for change in changes if change.key == 'train_dataloader.batch_size']
    assert [text.startswith(doubt) for text in said] == [True] * bool(doubt)
    assert all(text.endswith(f'if the LR is not meant for batch {batch}') for text in said)


def test_a_name_alone_that_does_not_fit_is_refused():
    """Its one item of a micro-batch is the 32 images of a triplet sampler."""
    cfg = stock('mmdet::reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py')
    message = "8xb32 in the file's name says 32 images a rank, and train_dataloader.batch_size is 1"
    with pytest.raises(SettingError, match=message):
        carry_recipe(cfg, 8)


def test_a_pure_python_config_is_carried_in_python():
    """Its types are classes; the plan builds what it resolves to."""
    cfg = Config.fromfile(ROOT / 'tests/helpers/pure_python/base.py')
    carried, changes = carry_recipe(cfg, 32)
    plan = make_plan(carried, 1, 512)
    assert (plan.global_batch, plan.schedule) == (32, 'WarmupStepLRHook')
    assert plan.lr == pytest.approx(2 * cfg.optim_wrapper.optimizer.lr)
