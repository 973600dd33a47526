# LAMB at batch 16. LR and warmup of one trial, not tuned yet (`tools/reproduce.sh tune`).
_base_ = '../_base_/mask-rcnn_r18_fpn_shapes_small.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='LAMB', lr=0.01, weight_decay=1e-4),
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0),
)
