# LARS at batch 128. LR and warmup of one trial, not tuned yet (`tools/reproduce.sh tune`).
_base_ = './mask-rcnn_r18_fpn_1xb16-lars-1x_shapes.py'

train_cfg = dict(global_batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=2.0))
default_hooks = dict(lr=dict(warmup_iters=64), logger=dict(interval=8))
