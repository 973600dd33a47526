# LAMB at batch 128 with SyncBN in the backbone.
_base_ = './mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'

model = dict(backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=True), norm_eval=False))
