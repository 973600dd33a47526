# LARS at batch 16. LR and warmup of one trial, not tuned yet (`tools/reproduce.sh tune`).
_base_ = '../_base_/mask-rcnn_r18_fpn_shapes_small.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='LARS', lr=1.0, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(
        custom_keys={
            '.bias': dict(decay_mult=0.0, lars_exclude=True),
            '.gn': dict(decay_mult=0.0, lars_exclude=True),
            '.downsample.1.': dict(decay_mult=0.0, lars_exclude=True),
        }
    ),
)
