"""LRs and parameter group options of carried recipes."""

import pytest
from helpers.carrying import DINO, HRNET, MASK_RCNN, SWIN, built, stock, written
from helpers.common import without_scope
from mmengine.config import Config

from mmdet_largebatch import carry_recipe


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
