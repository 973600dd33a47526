# Base of the Mask R-CNN recipes on COCO. Model, data, evaluation and runtime are mmdet's.
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'

custom_imports = dict(imports=['mmdet_largebatch'], allow_failed_imports=False)

# Images per update. The micro-batch is train_dataloader.batch_size: 2 in mmdet's config.
train_cfg = dict(type='GlobalBatchTrainLoop', max_epochs=12, global_batch_size=16)

# Warmup in updates, milestones in epochs. Replaces mmdet's `param_scheduler`.
default_hooks = dict(
    lr=dict(
        type='WarmupStepLRHook',
        warmup_iters=500,
        warmup_ratio=0.001,
        milestones=[8, 11],
        gamma=0.1,
    ),
    # Atomic checkpoints. To save by time too, set `every_minutes`.
    checkpoint=dict(type='AtomicCheckpointHook'),
    preemption=dict(type='PreemptionHook'),
    divergence=dict(type='DivergenceHook'),
)
# One parameter group per distinct setting, instead of one per tensor.
optim_wrapper = dict(constructor='MergedGroupsConstructor')
param_scheduler = None
auto_scale_lr = None
