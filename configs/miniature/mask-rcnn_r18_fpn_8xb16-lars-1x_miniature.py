# LARS at batch 128. `tools/miniature.sh tune` found the LR and the warmup: docs/results.md.
_base_ = './mask-rcnn_r18_fpn_1xb16-lars-1x_miniature.py'

train_cfg = dict(global_batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=1.0))
default_hooks = dict(lr=dict(warmup_iters=8), logger=dict(interval=1))
