"""Plans of this project's recipes."""

from copy import deepcopy
from functools import lru_cache

from mmengine.config import Config

from helpers.common import ROOT
from mmdet_largebatch.planning import make_plan

COCO = 'configs/mask_rcnn/mask-rcnn_r50_fpn_{}_coco.py'
SHAPES = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-{}-1x_shapes.py'
LAMB = COCO.format('64xb2-lamb-1x')
# COCO train2017 after mmdet's filter.
TRAIN2017 = 117_266


@lru_cache
def read(name):
    return Config.fromfile(ROOT / name)


def config(name):
    return deepcopy(read(name))


def plan(name, ranks=None, images=TRAIN2017, **options):
    cfg = config(name)
    for key in [key for key in options if '__' not in key]:
        cfg[key] = options.pop(key)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return make_plan(cfg, ranks, images)
