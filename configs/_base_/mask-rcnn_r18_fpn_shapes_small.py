# Base of the small recipes: the recipe on shapes, small enough for dozens of trainings on 2 CPU
# cores. `tools/reproduce.sh` writes the data and runs the trainings.
_base_ = './mask-rcnn_r18_fpn_shapes.py'

# Half the image size, half the channels, a quarter of the RoIs.
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=128),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=50), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=50), rcnn=dict(max_per_img=10)),
)

data_root = 'data/shapes_small/'
train_pipeline = [
    dict(type='LoadImageOnce'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    # MMDetection's inferencer asks for this name.
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
# No data workers: another training runs on the other core.
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root=data_root, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

# 8,192 images are 512 updates per epoch at batch 16, and 64 at 128: 6,144 and 768 in all. The
# default warmup is one epoch at batch 16.
train_cfg = dict(val_interval=2)
default_hooks = dict(
    lr=dict(warmup_iters=512), logger=dict(interval=64), checkpoint=dict(max_keep_ckpts=1)
)
