# The baseline: mmdet's 1x schedule at batch 16, SGD with LR 0.02 and weight decay 1e-4.
_base_ = '../_base_/mask-rcnn_r50_fpn_coco.py'
