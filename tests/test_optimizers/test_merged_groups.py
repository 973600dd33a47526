"""MergedGroupsConstructor beside MMEngine's default: every tensor's settings are the same."""

import logging

import pytest
import torch
import torch.distributed as dist
from mmdet.registry import MODELS, OPTIMIZERS
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MMLogger
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
    trained = [[p for p in group['params'] if p.requires_grad] for group in merged.param_groups]
    assert [len(group) for group in trained] == [63, 105]
    every = [name for name, _ in model.named_parameters()]
    place = {name: i for i, name in enumerate(every)}
    assert sorted(sum((g['param_names'] for g in merged.param_groups), [])) == sorted(every)
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


def tiny(frozen=True):
    """A module whose first layer is frozen, then a norm and a last layer."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.GroupNorm(2, 4), torch.nn.Linear(4, 2)
    )
    return model, model[0].requires_grad_(not frozen)


def steps(model, optimizer, count, data=3):
    for number in range(count):
        optimizer.zero_grad()
        x = torch.randn(5, data, generator=torch.Generator().manual_seed(number))
        model(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize('kind', ['SGD', 'AdamW', 'LAMB', 'LARS'])
def test_what_a_hook_unfreezes_is_trained_as_in_mmengines_groups(kind):
    """Without paramwise options MMEngine has frozen tensors in its only group."""
    weights = []
    for constructor in ('MergedGroupsConstructor', 'DefaultOptimWrapperConstructor'):
        model, first = tiny()
        optimizer = build(model, constructor, None, type=kind)
        before = first.weight.clone()
        steps(model, optimizer, 2)
        assert torch.equal(first.weight, before)
        first.requires_grad_(True)
        steps(model, optimizer, 2)
        assert not torch.equal(first.weight, before)
        weights.append(list(model.parameters()))
    assert all(map(torch.equal, *weights))


def test_frozen_tensors_have_the_settings_that_they_would_be_trained_with():
    """MMEngine leaves them out where there are paramwise options."""
    paramwise = dict(bias_decay_mult=0.0, custom_keys={'0.': dict(lr_mult=0.1)})
    frozen, _ = tiny()
    trained, _ = tiny(frozen=False)
    expected = {}
    for group in build(trained, 'MergedGroupsConstructor', paramwise).param_groups:
        for name in group['param_names']:
            expected[name] = (group['lr'], group['weight_decay'])
    groups = build(frozen, 'MergedGroupsConstructor', paramwise).param_groups
    found = {name: (g['lr'], g['weight_decay']) for g in groups for name in g['param_names']}
    assert found == expected
    assert not any(p.requires_grad for p in frozen[0].parameters())
    # MMEngine logs the LR of the first group.
    assert groups[0]['lr'] == 0.1 and groups[-1]['lr'] == pytest.approx(0.01)


def tied():
    """Two layers of one weight."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize('paramwise', [None, dict(bypass_duplicate=True), dict(bias_lr_mult=1.0)])
@pytest.mark.parametrize('kind', ['SGD', 'AdamW', 'LAMB', 'LARS'])
def test_tied_weights_are_stepped_once(kind, paramwise):
    """As by a plain optimizer on ``model.parameters()``."""
    model, plain = tied(), tied()
    ours = build(model, 'MergedGroupsConstructor', paramwise, type=kind)
    theirs = OPTIMIZERS.build(dict(type=kind, params=plain.parameters(), lr=0.1, weight_decay=1e-4))
    assert [g['param_names'] for g in ours.param_groups] == [['0.weight', '0.bias', '1.bias']]
    steps(model, ours, 3)
    steps(plain, theirs, 3)
    assert all(map(torch.equal, model.parameters(), plain.parameters()))


def test_tied_weights_cannot_be_in_the_groups_twice():
    with pytest.raises(SettingError) as error:
        build(tied(), 'MergedGroupsConstructor', dict(bypass_duplicate=False))
    assert str(error.value) == (
        'Invalid paramwise_cfg.bypass_duplicate=False. '
        'Must be True or left out: 1.weight is the same tensor as 0.weight.'
    )
    # MMEngine's default, written.
    build(tiny()[0], 'MergedGroupsConstructor', dict(bypass_duplicate=False))


@pytest.mark.parametrize('paramwise', PARAMWISE.values(), ids=PARAMWISE)
def test_flat_options_are_those_of_all_tensors_of_one_dimension(model, paramwise):
    """All other tensors and options are as without them, whatever else matches a name."""
    flat = dict(weight_decay=0.0, lars_exclude=True)
    options = dict(paramwise or {}, flat_options=flat)
    merged = settings(build(model, 'MergedGroupsConstructor', options))
    stock = settings(build(model, 'DefaultOptimWrapperConstructor', paramwise))
    assert merged == {p: s | (flat if p.ndim <= 1 else {}) for p, s in stock.items()}


@pytest.mark.parametrize(
    ('value', 'kind', 'message'),
    [
        ('wd', 'LARS', "='wd'. Must be a dict of options, such as dict(weight_decay=0.0)."),
        (
            dict(lars_exclude=True, eps=1),
            'LAMB',
            "=['lars_exclude']. Must be options of LAMB's groups: lr, betas, eps, weight_decay",
        ),
    ],
)
def test_flat_options_must_be_options_of_the_optimizer(value, kind, message):
    with pytest.raises(SettingError) as error:
        build(tiny()[0], 'MergedGroupsConstructor', dict(flat_options=value), type=kind)
    assert str(error.value).startswith(f'Invalid paramwise_cfg.flat_options{message}')


@pytest.fixture
def gloo():
    """A process group of this process alone."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_mmengines_zero_redundancy_optimizer_steps_as_the_optimizer_that_it_shards(gloo):
    """It takes no named parameters."""
    weights = []
    for options in (
        dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW'),
        dict(type='AdamW'),
    ):
        model, _ = tiny(frozen=False)
        optimizer = build(model, 'MergedGroupsConstructor', PARAMWISE['decay'], **options)
        assert [g['weight_decay'] for g in optimizer.param_groups] == [1e-4, 0.0]
        steps(model, optimizer, 3)
        weights.append(list(model.parameters()))
    assert all(map(torch.equal, *weights))


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


def test_the_log_has_a_line_for_each_group_in_place_of_one_for_each_tensor(model):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        build(model, 'DefaultOptimWrapperConstructor', PARAMWISE['decay'])
        assert sum(line.startswith('paramwise_options') for line in lines) > 50
        lines.clear()
        groups = build(model, 'MergedGroupsConstructor', PARAMWISE['decay']).param_groups
    finally:
        logger.removeHandler(handler)
    assert not [line for line in lines if line.startswith('paramwise_options')]
    assert [line for line in lines if line.startswith('Parameter group ')] == [
        f'Parameter group {number}: {len(group["params"])} tensors, '
        f'{sum(p.numel() for p in group["params"]):,} elements, lr=0.1, '
        f'weight_decay={group["weight_decay"]}'
        for number, group in enumerate(groups)
    ]
