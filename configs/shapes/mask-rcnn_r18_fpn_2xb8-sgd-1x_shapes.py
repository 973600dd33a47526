# SGD on shapes at batch 16: 2 micro-batches of 8 images.
_base_ = '../_base_/mask-rcnn_r18_fpn_shapes.py'

optim_wrapper = dict(optimizer=dict(lr=0.02), clip_grad=dict(max_norm=10, norm_type=2))
