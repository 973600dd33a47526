"""Pictures that are decoded once are the pictures that mmcv loads."""

import numpy as np
import pytest
from helpers.common import ROOT
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.config import Config

from mmdet_largebatch.errors import PictureError
from mmdet_largebatch.global_batch.remembering import remembering_transforms

RECIPE = ROOT / 'configs/shapes_small/mask-rcnn_r18_fpn_1xb16-lamb-1x_shapes.py'
ONCE = dict(type='LoadImageOnce')


def sample(shapes, number):
    return dict(img_path=str(shapes / f'train/{number:06d}.png'))


def test_it_gives_what_mmcv_loads_and_later_transforms_may_change_it(shapes):
    once = TRANSFORMS.build(ONCE)
    for number in (3, 0, 3, 3, 0):
        theirs = LoadImageFromFile()(sample(shapes, number))
        ours = once(sample(shapes, number))
        assert ours.keys() == theirs.keys()
        assert np.array_equal(ours['img'], theirs['img'])
        for key in ('img_shape', 'ori_shape', 'img_path'):
            assert ours[key] == theirs[key]
        ours['img'][:] = 0


def test_each_file_is_read_once(shapes, tmp_path):
    path = tmp_path / 'one.png'
    path.write_bytes((shapes / 'train/000000.png').read_bytes())
    once = TRANSFORMS.build(ONCE)
    before = once(dict(img_path=str(path)))['img']
    path.unlink()
    assert np.array_equal(once(dict(img_path=str(path)))['img'], before)
    # A missing file keeps the error of the package.
    with pytest.raises(PictureError, match='no such file'):
        TRANSFORMS.build(ONCE)(dict(img_path=str(path)))
    ignoring = TRANSFORMS.build(ONCE | dict(ignore_empty=True))
    assert ignoring(dict(img_path=str(path))) is None


def test_the_small_recipe_gets_the_pictures_that_decoding_each_time_gives(shapes):
    """The pipeline of the recipe, twice through the data, with the same draws of the flips."""
    cfg = Config.fromfile(RECIPE)
    config = cfg.train_dataloader.dataset
    config.data_root = f'{shapes}/'
    assert config.pipeline[0] == ONCE
    ours = DATASETS.build(config)
    config.pipeline[0] = dict(type='LoadImageFromFile')
    theirs = DATASETS.build(config)
    assert remembering_transforms(ours) == []
    drawn = []
    for dataset in (ours, theirs):
        np.random.seed(0)
        drawn.append([dataset[index] for index in (*range(10), *range(10))])
    flips = set()
    for one, other in zip(*drawn, strict=True):
        assert one['inputs'].equal(other['inputs'])
        a, b = one['data_samples'], other['data_samples']
        assert a.metainfo == b.metainfo
        flips.add(a.flip)
        assert a.gt_instances.bboxes.tensor.equal(b.gt_instances.bboxes.tensor)
        assert np.array_equal(a.gt_instances.masks.masks, b.gt_instances.masks.masks)
    assert flips == {True, False}
