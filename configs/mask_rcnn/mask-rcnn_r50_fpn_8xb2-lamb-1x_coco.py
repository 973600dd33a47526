# LAMB at the baseline's batch of 16.
_base_ = '../_base_/mask-rcnn_r50_fpn_coco.py'

# No source gives an LR for LAMB on Mask R-CNN. This one is derived, NOT validated on COCO: 5e-3 at
# batch 2048 (ResNet-50, "ResNet strikes back", arXiv 2110.00476) times sqrt(16 / 2048), by the
# square-root rule of the LAMB paper (arXiv 1904.00962).
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='LAMB', lr=4.4e-4, weight_decay=1e-4),
    # Without weight decay a parameter takes a plain Adam step: LAMB adapts only decayed ones.
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0),
)
