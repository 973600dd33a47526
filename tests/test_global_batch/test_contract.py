"""Models that depend on the number of ranks, and the modules that are named for it."""

import pytest
from helpers.common import ROOT
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config

from mmdet_largebatch.global_batch import rank_dependent_modules


def build(cfg):
    register_all_modules()
    cfg.model.backbone.init_cfg = None
    return MODELS.build(cfg.model).train()


@pytest.mark.parametrize(
    'recipe',
    [
        'mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco',
        'shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes',
    ],
)
def test_recipes_keep_it(recipe):
    """Frozen statistics and GroupNorm; RPN, box and mask heads normalise by the micro-batch."""
    assert rank_dependent_modules(build(Config.fromfile(ROOT / f'configs/{recipe}.py'))) == {}


def test_the_syncbn_recipe_does_not():
    recipe = 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-syncbn-1x_coco.py'
    found = rank_dependent_modules(build(Config.fromfile(ROOT / recipe)))
    ((what, names),) = found.items()
    assert what.startswith('SyncBN')
    # ResNet-50 has 53 batch norms; the stem and stage 1 are frozen: 1 + 3 x 3 + 1 of them.
    assert len(names) == 53 - 11
    assert 'backbone.layer2.0.bn1' in names and 'backbone.layer1.0.bn1' not in names


def test_trained_batch_norm():
    cfg = Config.fromfile(ROOT / 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py')
    cfg.model.backbone.norm_eval = False
    assert [what.split(' that')[0] for what in rank_dependent_modules(build(cfg))] == ['batch norm']


@pytest.mark.parametrize(
    'name', ['atss/atss_r50_fpn_1x_coco', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco']
)
def test_heads_that_average_their_normaliser(name):
    """ATSS and FCOS call mmdet's reduce_mean in their losses; RetinaNet's head does not."""
    found = rank_dependent_modules(build(get_config(f'mmdet::{name}.py')))
    assert found == {'a loss normalised over the ranks': ['bbox_head']}


def test_retinanet_keeps_it():
    assert (
        rank_dependent_modules(build(get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')))
        == {}
    )
