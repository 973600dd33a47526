# SGD on the shapes, 2 ranks of 8 pictures.
_base_ = '../_base_/mask-rcnn_r18_fpn_shapes.py'

optim_wrapper = dict(optimizer=dict(lr=0.02), clip_grad=dict(max_norm=10, norm_type=2))
