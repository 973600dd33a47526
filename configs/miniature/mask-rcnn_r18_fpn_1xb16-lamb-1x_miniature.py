# LAMB at batch 16. `tools/miniature.sh tune` found the LR and the warmup: docs/results.md.
_base_ = '../_base_/mask-rcnn_r18_fpn_miniature.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='LAMB', lr=0.01, weight_decay=1e-4),
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0),
)
default_hooks = dict(lr=dict(warmup_iters=192))
