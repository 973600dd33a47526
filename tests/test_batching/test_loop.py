"""The loop that trains only at the recipe's global batch."""

import pytest
from conftest import ROOT, data_options
from mmengine.config import Config
from mmengine.runner import Runner

from mmdet_largebatch import SettingError

RECIPE = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


def build_loop(shapes, tmp_path, micro_batch, global_batch):
    cfg = Config.fromfile(RECIPE)
    cfg.merge_from_dict(dict(option.split('=') for option in data_options(shapes)))
    cfg.work_dir = str(tmp_path)
    cfg.train_dataloader.update(batch_size=micro_batch, num_workers=0, persistent_workers=False)
    cfg.train_cfg.global_batch_size = global_batch
    cfg.experiment_name = tmp_path.name
    runner = Runner.from_cfg(cfg)
    return runner.build_train_loop(runner._train_loop)


def test_one_rank_of_the_whole_batch(shapes, tmp_path):
    loop = build_loop(shapes, tmp_path, micro_batch=8, global_batch=8)
    # 20 pictures in batches of 8: two whole ones and the rest.
    assert (loop.global_batch_size, loop.updates_per_epoch) == (8, 3)


@pytest.mark.parametrize(
    ('micro_batch', 'global_batch', 'message'),
    [
        (8, 16, r'global_batch_size=16, but 1 ranks x 8 images .* is 8\. Run it on 2 ranks'),
        (8, 12, r'global_batch_size=12, but 1 ranks x 8 .* no multiple of the micro-batch'),
        (8, 0, r'train_cfg\.global_batch_size=0\. Must be >= 1\.'),
        (8, '16', r"train_cfg\.global_batch_size='16'\. Must be an integer\."),
        (8, True, r'train_cfg\.global_batch_size=True\. Must be an integer\.'),
    ],
)
def test_another_batch_is_refused(shapes, tmp_path, micro_batch, global_batch, message):
    with pytest.raises(SettingError, match=message):
        build_loop(shapes, tmp_path, micro_batch, global_batch)
