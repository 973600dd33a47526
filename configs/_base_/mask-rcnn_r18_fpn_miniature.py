# Base of the trainings in docs/results.md: the small recipe on 1,024 images.
# `tools/miniature.sh` writes the data and runs the trainings.
_base_ = './mask-rcnn_r18_fpn_shapes_small.py'

data_root = 'data/miniature/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator

# 1,024 images are 64 updates per epoch at batch 16, and 8 at batch 128. The default warmup is one
# epoch at batch 16.
default_hooks = dict(lr=dict(warmup_iters=64), logger=dict(interval=8))
