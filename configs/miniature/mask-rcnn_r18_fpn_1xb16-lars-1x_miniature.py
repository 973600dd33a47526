# LARS at batch 16. `tools/miniature.sh tune` found the LR and the warmup: docs/results.md.
_base_ = '../_base_/mask-rcnn_r18_fpn_miniature.py'

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
