"""The recipe on shapes in mixed precision, for train_shapes.py."""

_base_ = '../../configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'

custom_imports = dict(imports=['mmdet_largebatch', 'mixed_precision'], allow_failed_imports=False)
model = dict(
    rpn_head=dict(type='Float32RPNHead'),
    roi_head=dict(
        bbox_roi_extractor=dict(type='Float32RoIExtractor'),
        mask_roi_extractor=dict(type='Float32RoIExtractor'),
    ),
)
optim_wrapper = dict(type='AmpOptimWrapper')
