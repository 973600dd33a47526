# LARS at batch 128.
_base_ = '../_base_/mask-rcnn_r50_fpn_coco.py'

train_cfg = dict(global_batch_size=128)
# As in the SGD recipe.
default_hooks = dict(lr=dict(warmup_iters=625), logger=dict(interval=6))

# The LR is derived and NOT validated on COCO: no published LR for LARS on Mask R-CNN was found. It
# is SimCLR's rule for LARS at eta 1e-3, 0.3 * batch / 256 (arXiv 2002.05709). Biases and norm
# parameters are excluded from the adaptation. At this LR their steps are close to those of SGD at
# LR 0.16.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='LARS', lr=0.15, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(
        custom_keys={
            '.bias': dict(decay_mult=0.0, lars_exclude=True),
            '.bn': dict(decay_mult=0.0, lars_exclude=True),
            '.downsample.1.': dict(decay_mult=0.0, lars_exclude=True),
        }
    ),
)
