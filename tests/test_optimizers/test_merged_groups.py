"""MergedGroupsConstructor beside MMEngine's default: every tensor's settings are the same."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper

from mmdet_largebatch.errors import SettingError
from mmdet_largebatch.optimizers import component_of

PARAMWISE = {
    'nothing': None,
    'decay': dict(bias_decay_mult=0.0, norm_decay_mult=0.0),
    'biases at twice the rate': dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
    'custom keys': dict(
        custom_keys={
            'backbone': dict(lr_mult=0.1, decay_mult=0.9),
            'backbone.layer4': dict(lr_mult=0.5),
            '.bias': dict(decay_mult=0.0, lars_exclude=True),
        },
        norm_decay_mult=0.5,
    ),
    'one-dimensional': dict(flat_decay_mult=0.0),
}


@pytest.fixture(scope='module')
def model():
    """mmdet's Mask R-CNN R50 as its 1x recipe has it: 201 parameters, 168 of them trainable."""
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.init_cfg = None
    return MODELS.build(cfg.model)


def build(model, constructor, paramwise, **optimizer):
    optimizer = dict(type='LARS', lr=0.1, weight_decay=1e-4) | optimizer
    return build_optim_wrapper(
        model,
        Config(
            dict(
                type='OptimWrapper',
                constructor=constructor,
                optimizer=optimizer,
                paramwise_cfg=paramwise,
            )
        )._cfg_dict,
    ).optimizer


def settings(optimizer):
    """Per tensor, all options of its group but those that MMEngine has multiplied by."""
    hidden = ('params', 'param_names', 'lr_mult', 'decay_mult')
    return {
        p: {name: value for name, value in group.items() if name not in hidden}
        for group in optimizer.param_groups
        for p in group['params']
        if p.requires_grad
    }


@pytest.mark.parametrize('paramwise', PARAMWISE.values(), ids=PARAMWISE)
def test_every_tensor_has_the_settings_that_mmengine_gives_it(model, paramwise):
    merged = build(model, 'MergedGroupsConstructor', paramwise)
    stock = build(model, 'DefaultOptimWrapperConstructor', paramwise)
    assert settings(merged) == settings(stock)
    distinct = {tuple(sorted(s.items())) for s in settings(stock).values()}
    assert len(merged.param_groups) == len(distinct)


def test_two_groups_for_168_with_names_in_the_models_order(model):
    paramwise = PARAMWISE['decay']
    merged = build(model, 'MergedGroupsConstructor', paramwise)
    assert len(build(model, 'DefaultOptimWrapperConstructor', paramwise).param_groups) == 168
    assert [len(group['params']) for group in merged.param_groups] == [63, 105]
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    place = {name: i for i, name in enumerate(trainable)}
    assert sorted(sum((g['param_names'] for g in merged.param_groups), [])) == sorted(trainable)
    for group in merged.param_groups:
        assert [dict(model.named_parameters())[n] for n in group['param_names']] == group['params']
        assert sorted(group['param_names'], key=place.get) == group['param_names']


def test_groups_by_component(model):
    paramwise = dict(PARAMWISE['decay'], by_component=True)
    optimizer = build(model, 'MergedGroupsConstructor', paramwise)
    # Each has weights and biases or norms: 5 components, 2 groups each.
    components = {'backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head'}
    assert {group['component'] for group in optimizer.param_groups} == components
    assert len(optimizer.param_groups) == 10
    for group in optimizer.param_groups:
        assert {component_of(name) for name in group['param_names']} == {group['component']}
    alone = build(model, 'MergedGroupsConstructor', dict(by_component=True))
    assert len(alone.param_groups) == 5


@pytest.mark.parametrize(
    ('name', 'component'),
    [
        ('backbone.conv1.weight', 'backbone'),
        ('rpn_head.rpn_conv.bias', 'rpn_head'),
        ('roi_head.bbox_head.fc_cls.weight', 'bbox_head'),
        ('roi_head.bbox_head.2.fc_cls.weight', 'bbox_head'),
        ('scale', 'scale'),
    ],
)
def test_component_of(name, component):
    assert component_of(name) == component


def test_shared_tensors_are_in_one_group_once():
    model = torch.nn.ModuleDict({'a': torch.nn.Linear(3, 3), 'b': torch.nn.Linear(3, 3)})
    model['b'].weight = model['a'].weight
    optimizer = build(model, 'MergedGroupsConstructor', dict(bypass_duplicate=True))
    assert [len(group['params']) for group in optimizer.param_groups] == [3]


def test_an_optimizer_of_pytorch_and_its_checkpoint(model):
    paramwise = PARAMWISE['decay']
    one, two = (
        build(model, 'MergedGroupsConstructor', paramwise, type='SGD', momentum=0.9)
        for _ in range(2)
    )
    two.load_state_dict(one.state_dict())
    assert two.param_groups[0]['param_names'] == one.param_groups[0]['param_names']


def test_by_component_must_be_a_bool(model):
    with pytest.raises(SettingError) as error:
        build(model, 'MergedGroupsConstructor', dict(by_component='yes'))
    assert str(error.value) == ("Invalid paramwise_cfg.by_component='yes'. Must be True or False.")
