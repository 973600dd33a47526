"""Models that depend on the number of ranks, and the modules that are named for it."""

import pytest
import torch
import torch.distributed as dist
from helpers.common import ROOT
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config

from mmdet_largebatch.global_batch import rank_dependent_modules
from mmdet_largebatch.global_batch.collectives import MEAN, collectives
from mmdet_largebatch.global_batch.rank_dependence import uneven_message


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


def test_trained_batch_norm_keeps_it():
    """Its running statistics are means over the update: test_running_statistics.py."""
    cfg = Config.fromfile(ROOT / 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py')
    cfg.model.backbone.norm_eval = False
    assert rank_dependent_modules(build(cfg)) == {}


@pytest.mark.parametrize(
    'name', ['atss/atss_r50_fpn_1x_coco', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco']
)
def test_heads_that_average_their_normaliser_keep_it(name):
    """ATSS and FCOS call mmdet's reduce_mean in their losses: test_rank_means.py."""
    model = build(get_config(f'mmdet::{name}.py'))
    assert collectives(model) == {'bbox_head': {MEAN}}
    assert rank_dependent_modules(model) == {}
    assert uneven_message(model, 3, 8) is None


def reduce_mean(tensor):
    """A function of a user's, by the name of mmdet's."""
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()


class Head(torch.nn.Module):
    def loss(self, x):
        return x / reduce_mean(x)


def test_a_users_own_mean_does_not():
    ((what, names),) = rank_dependent_modules(Head()).items()
    assert what == 'communication between the ranks (reduce_mean)' and names == ['Head']
    assert '3 ranks cannot share' in uneven_message(Head(), 3, 8)


def test_retinanet_keeps_it():
    assert (
        rank_dependent_modules(build(get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')))
        == {}
    )
