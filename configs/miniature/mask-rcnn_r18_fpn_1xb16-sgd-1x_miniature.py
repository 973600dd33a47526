# SGD at batch 16. `tools/miniature.sh tune` found the LR and the warmup: docs/results.md.
_base_ = '../_base_/mask-rcnn_r18_fpn_miniature.py'

optim_wrapper = dict(optimizer=dict(lr=0.02), clip_grad=dict(max_norm=10, norm_type=2))
default_hooks = dict(lr=dict(warmup_iters=192))
