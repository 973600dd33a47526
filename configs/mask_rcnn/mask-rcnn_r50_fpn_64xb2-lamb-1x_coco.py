# LAMB at batch 128.
_base_ = '../_base_/mask-rcnn_r50_fpn_coco.py'

train_cfg = dict(global_batch_size=128)
# As in the SGD recipe.
default_hooks = dict(lr=dict(warmup_iters=625), logger=dict(interval=6))

# The LR is derived and NOT validated on COCO: no published LR for LAMB on Mask R-CNN was found. It
# is 5e-3 at batch 2048 (ResNet-50 in "ResNet strikes back", arXiv 2110.00476) times sqrt(128 /
# 2048), the square-root rule of the LAMB paper (arXiv 1904.00962).
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='LAMB', lr=1.25e-3, weight_decay=1e-4),
    # LAMB adapts only parameters with weight decay. The others get plain Adam steps.
    paramwise_cfg=dict(bias_decay_mult=0.0, norm_decay_mult=0.0),
)
