# LAMB at batch 128 with the backbone's batch norm trained on statistics of all ranks.
_base_ = './mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'

model = dict(backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True), norm_eval=False))
