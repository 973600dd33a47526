# SGD at batch 128. The linear rule scales the baseline's LR: 0.02 * 128 / 16.
_base_ = '../_base_/mask-rcnn_r50_fpn_coco.py'

train_cfg = dict(global_batch_size=128)
optim_wrapper = dict(optimizer=dict(lr=0.16))
default_hooks = dict(
    # The warmup of MLPerf training 3.1's reference point for SGD at this batch and LR.
    lr=dict(warmup_iters=625),
    # A log line for as many images as in the baseline: 50 * 16 / 128.
    logger=dict(interval=6),
)
