"""Transforms that remember earlier pictures are named, wherever they stand in a pipeline."""

import pytest
from helpers.common import ROOT
from mmcv.transforms import BaseTransform
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hub import get_config

from mmdet_largebatch.global_batch.remembering import remembering_message, remembering_transforms

MOSAIC = dict(type='CachedMosaic', img_scale=(32, 32))
MIXUP = dict(type='CachedMixUp', img_scale=(32, 32))


@TRANSFORMS.register_module(force=True)
class Remembers(BaseTransform):
    """A transform of a user's."""

    def __init__(self):
        self.results_cache = []

    def transform(self, results):
        return results


def dataset(root, *pipeline):
    return dict(
        type='CocoDataset',
        data_root=f'{root}/',
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        metainfo=dict(classes=('circle', 'square', 'triangle')),
        pipeline=[dict(type='LoadImageFromFile'), *pipeline],
    )


@pytest.mark.parametrize(
    'wrap',
    [
        lambda root, t: dataset(root, t),
        lambda root, t: dataset(root, dict(type='RandomApply', transforms=[t])),
        lambda root, t: dataset(root, dict(type='RandomChoice', transforms=[[t], []])),
        lambda root, t: dict(type='RepeatDataset', times=2, dataset=dataset(root, t)),
        lambda root, t: dict(type='ConcatDataset', datasets=[dataset(root), dataset(root, t)]),
        lambda root, t: dict(
            type='MultiImageMixDataset',
            dataset=dataset(root),
            pipeline=[t, dict(type='PackDetInputs')],
        ),
    ],
)
@pytest.mark.parametrize('transform', ['CachedMosaic', 'CachedMixUp', 'Remembers'])
def test_wherever_it_stands(shapes, wrap, transform):
    register_all_modules()
    sizes = {} if transform == 'Remembers' else dict(img_scale=(32, 32))
    config = wrap(shapes, dict(type=transform, **sizes))
    assert remembering_transforms(DATASETS.build(config)) == [transform]
    if transform != 'Remembers':
        assert remembering_transforms(config) == [transform]


def test_what_to_take_instead(shapes):
    message = remembering_message(dataset(shapes, MOSAIC, MIXUP))
    assert 'CachedMosaic, CachedMixUp in train_dataloader.dataset' in message
    assert message.endswith('take Mosaic and MixUp in a MultiImageMixDataset instead.')


def test_plain_mosaic_and_the_recipes_do_not(shapes):
    register_all_modules()
    mixed = dict(
        type='MultiImageMixDataset',
        dataset=dataset(shapes),
        pipeline=[
            dict(type='Mosaic', img_scale=(32, 32)),
            dict(type='MixUp', img_scale=(32, 32)),
            dict(type='PackDetInputs'),
        ],
    )
    assert remembering_message(DATASETS.build(mixed)) is None
    recipe = Config.fromfile(ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py')
    assert remembering_message(recipe.train_dataloader.dataset) is None


def test_rtmdets_stock_config_does():
    config = get_config('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    names = remembering_transforms(config.train_dataloader.dataset)
    assert names == ['CachedMosaic', 'CachedMixUp']
