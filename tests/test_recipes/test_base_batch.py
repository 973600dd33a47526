"""The base batch of a config, and the refusals of `carry_recipe`."""

import pytest
from helpers.carrying import MASK_RCNN, RTMDET, stock
from mmengine.config import Config

from mmdet_largebatch import SettingError, carry_recipe


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
    path = tmp_path / name
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
