"""Every stock config of ten families is carried to another batch, loads, and can be planned."""

from pathlib import Path

import mmdet
import pytest
from helpers.common import without_scope
from mmengine.config import Config

from mmdet_largebatch import SettingError, carry_recipe
from mmdet_largebatch.planning import make_plan
from mmdet_largebatch.recipes import recipe_text
from mmdet_largebatch.recipes.base_batch import find_batches

CONFIGS = Path(mmdet.__file__).parent / '.mim/configs'
FAMILIES = [
    *('faster_rcnn', 'mask_rcnn', 'cascade_rcnn', 'retinanet', 'fcos', 'atss', 'rtmdet', 'yolox'),
    *('deformable_detr', 'dino'),
]
# Parts of other configs.
FRAGMENTS = {f'{name}/{name}_tta.py' for name in ('retinanet', 'rtmdet', 'yolox')}
BY_ITERATIONS = {
    'faster_rcnn/faster-rcnn_r50-caffe_fpn_90k_coco.py',
    'faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-90k_coco.py',
    'retinanet/retinanet_r50_fpn_90k_coco.py',
}
NAMES = sorted(
    str(path.relative_to(CONFIGS)) for family in FAMILIES for path in CONFIGS.glob(f'{family}/*.py')
)
TRAINED = [name for name in NAMES if name not in FRAGMENTS | BY_ITERATIONS]
# One of each kind of schedule, optimizer and loader.
SHORT = [
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mask_rcnn/mask-rcnn_r50_fpn_8xb8-amp-lsj-200e_coco.py',
    'mask_rcnn/mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco.py',
    'cascade_rcnn/cascade-rcnn_r50_fpn_20e_coco.py',
    'retinanet/retinanet_r18_fpn_1xb8-1x_coco.py',
    'fcos/fcos_r50-caffe_fpn_gn-head_4xb4-1x_coco.py',
    'atss/atss_r50_fpn_1x_coco.py',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'rtmdet/rtmdet-ins_s_8xb32-300e_coco.py',
    'yolox/yolox_tiny_8xb8-300e_coco.py',
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'dino/dino-4scale_r50_8xb2-12e_coco.py',
]
TRAIN2017 = 117_266
WHOLE = [pytest.param(name, marks=pytest.mark.whole) for name in TRAINED if name not in SHORT]


@pytest.mark.parametrize('name', [*SHORT, *WHOLE])
@pytest.mark.slow
def test_carried_loaded_and_planned(name, tmp_path):
    """The written file is the carried config; its plan is the old plan in the new batch."""
    if 'convnext' in name:
        pytest.importorskip('mmpretrain', reason='its config imports mmpretrain')
    stock = Config.fromfile(CONFIGS / name)
    micro_batch = stock.train_dataloader.batch_size
    # No stock config is for 24 GPUs.
    batch = 24 * micro_batch
    carried, changes = carry_recipe(stock, batch)
    path = tmp_path / 'recipe.py'
    path.write_text(recipe_text(f'mmdet::{name}', changes, 'A recipe.'))
    cfg = Config.fromfile(path)
    assert without_scope(cfg.to_dict()) == without_scope(carried.to_dict())
    lines = path.read_text().splitlines()
    assert all(len(line) <= 100 for line in lines if not line.startswith('_base_ = '))

    plan = make_plan(cfg, 1, TRAIN2017)
    assert (plan.global_batch, plan.epochs) == (batch, stock.train_cfg.max_epochs)
    assert plan.updates_per_epoch == -(-TRAIN2017 // batch)
    assert plan.lr == carried.optim_wrapper.optimizer.lr
    old = make_plan(stock, find_batches(stock, batch).base // micro_batch, TRAIN2017)
    # Decays are at the same epochs.
    assert [decay.epoch for decay in plan.decays] == pytest.approx(
        [decay.epoch for decay in old.decays], abs=1e-3
    )
    ratio = plan.lr / old.lr
    for fraction in (0.3, 0.6, 0.97):
        # The schedule over epochs has the same shape.
        new_lr, old_lr = (x.lrs[int(fraction * len(x.lrs))] for x in (plan, old))
        assert new_lr == pytest.approx(old_lr * ratio, rel=0.01)


@pytest.mark.parametrize('name', sorted(BY_ITERATIONS))
def test_by_iterations_is_refused(name):
    with pytest.raises(SettingError, match=r"type='IterBasedTrainLoop'\. Must be EpochBased"):
        carry_recipe(Config.fromfile(CONFIGS / name), 128)


def test_the_list_has_every_config_that_trains():
    assert FRAGMENTS | BY_ITERATIONS | set(SHORT) <= set(NAMES)
    assert len(TRAINED) >= 150
    for name in FRAGMENTS:
        assert 'train_cfg' not in Config.fromfile(CONFIGS / name)
