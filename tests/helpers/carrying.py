"""Read stock configs, and write and build the recipes carried from them."""

from copy import deepcopy
from functools import lru_cache

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from mmdet_largebatch.compat import config_path
from mmdet_largebatch.recipes import recipe_text

MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
DINO = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
HRNET = 'mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py'
SWIN = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'
RTMDET = 'mmdet::rtmdet/rtmdet_l_8xb32-300e_coco.py'
YOLOX = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'


def stock(name):
    """A config of MMDetection's with its file's name, which `get_config` loses."""
    return deepcopy(read(name))


@lru_cache
def read(name):
    return Config.fromfile(config_path(name))


def leaves(node, path=()):
    """The settings of nested dicts by path; a list is one value."""
    if isinstance(node, dict) and node:
        return {k: v for key in node for k, v in leaves(node[key], (*path, key)).items()}
    return {path: node}


def written(name, changes, folder, out='recipe.py'):
    path = folder / out
    path.write_text(recipe_text(name, changes, 'A recipe.'))
    return path


def built(cfg, device='meta'):
    """The model of a config, and the options of each tensor's group."""
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device(device):
        model = MODELS.build(cfg.model)
        groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    hidden = ('params', 'param_names')
    options = [{key: group[key] for key in group if key not in hidden} for group in groups]
    return model, {
        p: of for group, of in zip(groups, options, strict=True) for p in group['params']
    }


def values(changes):
    return {change.key: change.new for change in changes if not change.stays}
