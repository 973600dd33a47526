# What every Mask R-CNN recipe on COCO shares. Model, data, evaluation and runtime are mmdet's own.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmdet_largebatch'], allow_failed_imports=False)

# A recipe belongs to its global batch (images an update); train_dataloader.batch_size, 2 in
# mmdet's config, is the micro-batch.
train_cfg = dict(type='GlobalBatchTrainLoop', max_epochs=12, global_batch_size=16)

# Warmup in updates, milestones in epochs. It takes the place of mmdet's `param_scheduler`.
default_hooks = dict(
    lr=dict(
        type='WarmupStepLRHook',
        warmup_iters=500,
        warmup_ratio=0.001,
        milestones=[8, 11],
        gamma=0.1,
    ),
    # Whole or absent, and resumed from; also every so many minutes, if `every_minutes` is set.
    checkpoint=dict(type='AtomicCheckpointHook'),
    preemption=dict(type='PreemptionHook'),
    divergence=dict(type='DivergenceHook'),
)
# Parameters of equal settings in one group, instead of a group a tensor.
optim_wrapper = dict(constructor='MergedGroupsConstructor')
param_scheduler = None
auto_scale_lr = None
