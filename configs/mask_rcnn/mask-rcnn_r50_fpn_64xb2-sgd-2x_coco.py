# SGD at batch 128 for 24 epochs.
_base_ = './mask-rcnn_r50_fpn_64xb2-sgd-1x_coco.py'

train_cfg = dict(max_epochs=24)
default_hooks = dict(lr=dict(milestones=[16, 22]))
