# LAMB on shapes at batch 16: 2 micro-batches of 8 images.
_base_ = '../_base_/mask-rcnn_r18_fpn_shapes.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='LAMB', lr=0.01, weight_decay=1e-4),
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0),
)
