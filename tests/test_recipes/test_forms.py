"""Carried recipes whose settings have other forms: tuples, values of each group, total_steps."""

from copy import deepcopy
from functools import lru_cache

import pytest
from helpers.common import without_scope
from mmengine.config import Config

from mmdet_largebatch import carry_recipe
from mmdet_largebatch.compat import config_path
from mmdet_largebatch.planning import make_plan
from mmdet_largebatch.recipes import recipe_text

MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'


@lru_cache
def read():
    return Config.fromfile(config_path(MASK_RCNN))


def as_lists(node):
    """Nested settings with lists in place of tuples."""
    if isinstance(node, dict):
        return {key: as_lists(value) for key, value in node.items()}
    return [as_lists(x) for x in node] if isinstance(node, (list, tuple)) else node


@pytest.mark.slow
@pytest.mark.parametrize('end', [None, 756])
def test_a_one_cycle_schedule_lasts_to_the_last_update(end):
    """1,000 images are 63 iterations an epoch at batch 16, and 8 updates at batch 128."""
    cfg = deepcopy(read())
    cfg.model.backbone.init_cfg = None
    cfg.param_scheduler = [dict(type='OneCycleLR', eta_max=0.02, total_steps=756, by_epoch=False)]
    if end is not None:
        cfg.param_scheduler[0].end = end
    assert make_plan(cfg, 8, 1000).updates == 12 * 63
    plan = make_plan(carry_recipe(cfg, 128)[0], 8, 1000)
    assert (plan.updates, plan.lr) == (12 * 8, 0.16)
    # At most 12 of 107 updates before its end: (1 + cos(pi (1 - 12 / 75))) / 2 of the peak.
    assert plan.last_lr < 0.07 * 0.16


def test_tuples_and_values_of_each_group_are_carried(tmp_path):
    """The recipe, and the written file, are those of the same config with lists."""
    parts = dict(
        custom_hooks=(dict(type='EMAHook', momentum=0.0002), dict(type='SyncNormHook')),
        param_scheduler=(
            dict(type='OneCycleLR', eta_max=(0.02, 0.01), total_steps=12),
            dict(type='ReduceOnPlateauLR', monitor='loss', min_value=[1e-5, 1e-6]),
        ),
    )
    augment = dict(type='BatchSyncRandomResize', random_size_range=(480, 800), interval=8)
    parts['model'] = dict(data_preprocessor=dict(batch_augments=(augment,)))
    recipes = []
    for index, form in enumerate((parts, as_lists(parts))):
        base, file = tmp_path / f'base{index}.py', tmp_path / f'recipe{index}.py'
        lines = [f'{name} = {value!r}\n' for name, value in form.items()]
        base.write_text(f'_base_ = {MASK_RCNN!r}\n' + ''.join(lines))
        recipe, changes = carry_recipe(Config.fromfile(base), 128)
        file.write_text(recipe_text(base.name, changes, 'A recipe.'))
        for cfg in (recipe, Config.fromfile(file)):
            recipes.append(as_lists(without_scope(cfg.to_dict())))
    assert recipes[0] == recipes[1] == recipes[2] == recipes[3]
    one_cycle, plateau = recipes[0]['param_scheduler']
    # The LR is multiplied by 8.
    assert one_cycle['eta_max'] == [0.16, 0.08] and plateau['min_value'] == [8e-5, 8e-6]
    assert recipes[0]['custom_hooks'][0]['momentum'] == pytest.approx(1 - (1 - 0.0002) ** 8, 1e-5)
