# LAMB at batch 128, with LR and warmup as `tools/reproduce.sh tune` found them.
_base_ = './mask-rcnn_r18_fpn_1xb16-lamb-1x_shapes.py'

train_cfg = dict(global_batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=0.01))
default_hooks = dict(lr=dict(warmup_iters=0), logger=dict(interval=8))
