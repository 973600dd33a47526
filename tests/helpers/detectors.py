"""Detectors of a few channels on pictures of 64 pixels, and their trainings.

`detector(name)` is the config of a model, `training(name, root, work_dir)` the config of a run. The
heads are MMDetection's own. A micro-batch takes some 100 ms on one core.
"""

from mmengine.config import ConfigDict

CLASSES = ('circle', 'square', 'triangle')
GN = dict(type='GN', num_groups=4)
BN = dict(type='BN', requires_grad=True)
CODER = dict(
    type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]
)
NMS = dict(type='nms', iou_threshold=0.6)
FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)


def _preprocessor(**kwargs):
    return dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
        **kwargs,
    )


def _resnet(norm):
    return dict(
        type='ResNet',
        depth=18,
        base_channels=8,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        frozen_stages=-1,
        norm_cfg=norm,
        norm_eval=False,
    )


def _fpn(norm):
    return dict(
        type='FPN',
        in_channels=[16, 32],
        out_channels=16,
        num_outs=2,
        norm_cfg=None if norm is BN else norm,
    )


def _assigner(iou=0.5):
    return dict(type='MaxIoUAssigner', pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=0.3)


def _one_stage(kind, head, train_cfg=None, norm=GN):
    model = dict(
        type=kind,
        data_preprocessor=_preprocessor(),
        backbone=_resnet(norm),
        neck=_fpn(norm),
        bbox_head=dict(
            num_classes=len(CLASSES), in_channels=16, stacked_convs=1, feat_channels=16, **head
        ),
        test_cfg=dict(nms_pre=100, score_thr=0.05, nms=NMS, max_per_img=10, min_bbox_size=0),
    )
    return model if train_cfg is None else model | dict(train_cfg=train_cfg)


def _anchors(**kwargs):
    return dict(type='AnchorGenerator', strides=[8, 16], **kwargs)


SQUARES = dict(ratios=[1.0], octave_base_scale=2, scales_per_octave=1)


def _retinanet():
    head = dict(
        type='RetinaHead',
        anchor_generator=_anchors(octave_base_scale=2, scales_per_octave=2, ratios=[0.7, 1.4]),
        bbox_coder=CODER,
        loss_cls=FOCAL,
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    )
    return _one_stage('RetinaNet', head, _training_of_anchors(_assigner()))


def _training_of_anchors(assigner, **kwargs):
    return dict(assigner=assigner, allowed_border=-1, pos_weight=-1, debug=False, **kwargs)


def _fcos():
    head = dict(type='FCOSHead', norm_cfg=GN, strides=[8, 16])
    return _one_stage('FCOS', head | dict(regress_ranges=((-1, 24), (24, 1e8))))


def _atss(norm=GN):
    head = dict(
        type='ATSSHead',
        norm_cfg=norm,
        anchor_generator=_anchors(**SQUARES),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    )
    assigner = dict(type='ATSSAssigner', topk=9)
    return _one_stage('ATSS', head, _training_of_anchors(assigner), norm)


def _gfl():
    head = dict(
        type='GFLHead',
        norm_cfg=GN,
        anchor_generator=_anchors(**SQUARES),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_dfl=dict(type='DistributionFocalLoss', loss_weight=0.25),
        reg_max=4,
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    )
    assigner = dict(type='ATSSAssigner', topk=9)
    return _one_stage('GFL', head, _training_of_anchors(assigner))


def _yolox():
    norm = dict(type='BN', momentum=0.03, eps=0.001)
    return dict(
        type='YOLOX',
        data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
        backbone=dict(
            type='CSPDarknet',
            deepen_factor=0.1,
            widen_factor=0.125,
            out_indices=(2, 3, 4),
            norm_cfg=norm,
        ),
        neck=dict(
            type='YOLOXPAFPN',
            in_channels=[32, 64, 128],
            out_channels=16,
            num_csp_blocks=1,
            norm_cfg=norm,
        ),
        bbox_head=dict(
            type='YOLOXHead',
            num_classes=len(CLASSES),
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            norm_cfg=norm,
        ),
        train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
        test_cfg=dict(score_thr=0.01, nms=NMS),
    )


def _sampler(num):
    return dict(type='RandomSampler', num=num, pos_fraction=0.5, neg_pos_ub=-1)


def _box_head(kind, **kwargs):
    return dict(
        type=kind,
        in_channels=16,
        fc_out_channels=16,
        roi_feat_size=3,
        num_classes=len(CLASSES),
        bbox_coder=CODER,
        reg_class_agnostic=kind == 'Shared2FCBBoxHead',
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        **kwargs,
    )


def _extractor(size):
    return dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=1),
        out_channels=16,
        featmap_strides=[8, 16],
    )


def _two_stage(kind, roi_head, rcnn, norm):
    proposals = dict(
        nms_pre=50, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
    )
    return dict(
        type=kind,
        data_preprocessor=_preprocessor(pad_mask=True, mask_pad_value=0),
        backbone=_resnet(norm),
        neck=_fpn(norm),
        rpn_head=dict(
            type='RPNHead',
            in_channels=16,
            feat_channels=16,
            anchor_generator=_anchors(scales=[2], ratios=[0.7, 1.4]),
            bbox_coder=CODER,
            loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0),
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
        roi_head=roi_head,
        train_cfg=dict(
            rpn=_training_of_anchors(
                _assigner(), sampler=_sampler(16) | dict(add_gt_as_proposals=False)
            ),
            rpn_proposal=proposals,
            rcnn=rcnn,
        ),
        test_cfg=dict(
            rpn=proposals, rcnn=dict(score_thr=0.01, nms=NMS, max_per_img=5, mask_thr_binary=0.5)
        ),
    )


def _training_of_boxes(iou=0.5):
    return dict(
        assigner=_assigner(iou), sampler=_sampler(8), mask_size=6, pos_weight=-1, debug=False
    )


def _mask_rcnn(norm=GN):
    roi_head = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=_extractor(3),
        bbox_head=_box_head('Shared2FCBBoxHead'),
        mask_roi_extractor=_extractor(3),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=1,
            in_channels=16,
            conv_out_channels=8,
            num_classes=len(CLASSES),
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        ),
    )
    return _two_stage('MaskRCNN', roi_head, _training_of_boxes(), norm)


def _cascade_rcnn():
    roi_head = dict(
        type='CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_roi_extractor=_extractor(3),
        bbox_head=[_box_head('Shared2FCBBoxHead') for _ in range(2)],
    )
    stages = [_training_of_boxes(iou) for iou in (0.5, 0.6)]
    return _two_stage('CascadeRCNN', roi_head, stages, GN)


def _deformable_detr():
    attention = dict(embed_dims=16, num_heads=2, num_levels=2, num_points=2, batch_first=True)
    ffn = dict(embed_dims=16, feedforward_channels=32, ffn_drop=0.1)
    return dict(
        type='DeformableDETR',
        num_queries=20,
        num_feature_levels=2,
        data_preprocessor=_preprocessor(),
        backbone=_resnet(GN),
        neck=dict(
            type='ChannelMapper',
            in_channels=[16, 32],
            kernel_size=1,
            out_channels=16,
            act_cfg=None,
            norm_cfg=GN,
            num_outs=2,
        ),
        encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)),
        decoder=dict(
            num_layers=2,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=dict(embed_dims=16, num_heads=2, dropout=0.1, batch_first=True),
                cross_attn_cfg=attention,
                ffn_cfg=ffn,
            ),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(num_feats=8, normalize=True, offset=-0.5),
        bbox_head=dict(
            type='DeformableDETRHead',
            num_classes=len(CLASSES),
            embed_dims=16,
            sync_cls_avg_factor=True,
            loss_cls=FOCAL | dict(loss_weight=2.0),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(
            assigner=dict(
                type='HungarianAssigner',
                match_costs=[
                    dict(type='FocalLossCost', weight=2.0),
                    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                    dict(type='IoUCost', iou_mode='giou', weight=2.0),
                ],
            )
        ),
        test_cfg=dict(max_per_img=10),
    )


DETECTORS = {
    'mask_rcnn_gn': _mask_rcnn,
    'mask_rcnn_bn': lambda: _mask_rcnn(BN),
    'retinanet': _retinanet,
    'fcos': _fcos,
    'atss': _atss,
    'atss_bn': lambda: _atss(BN),
    'gfl': _gfl,
    'yolox': _yolox,
    'cascade_rcnn': _cascade_rcnn,
    'deformable_detr': _deformable_detr,
}


def detector(name):
    """Config of a model; `name` is a key of `DETECTORS`."""
    return ConfigDict(DETECTORS[name]())
