# SGD at batch 16. LR and warmup of one trial, not tuned yet (`tools/reproduce.sh tune`).
_base_ = '../_base_/mask-rcnn_r18_fpn_shapes_small.py'

optim_wrapper = dict(optimizer=dict(lr=0.02), clip_grad=dict(max_norm=10, norm_type=2))
