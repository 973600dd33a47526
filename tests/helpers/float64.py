"""Train a detector in float64."""

import torch
from mmcv.ops.nms import NMSop
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS


@MODELS.register_module()
class Float64Preprocessor(DetDataPreprocessor):
    """Pictures and boxes in float64."""

    def forward(self, data, training=False):
        data = super().forward(data, training)
        data['inputs'] = data['inputs'].double()
        for sample in data['data_samples']:
            sample.gt_instances.bboxes = sample.gt_instances.bboxes.double()
        return data


def select_in_float32():
    """mmcv's NMS has no float64; it only chooses among boxes, and no gradient passes through."""
    # A test may give the name torch.float32 another meaning afterwards.
    select, float32 = NMSop.forward, torch.float32
    NMSop.forward = staticmethod(
        lambda ctx, boxes, scores, *rest: select(ctx, boxes.to(float32), scores.to(float32), *rest)
    )
