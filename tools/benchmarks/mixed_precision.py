"""Parts of Mask R-CNN for mixed precision: MMCV's RoIAlign and NMS do not take bfloat16."""

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS, OPTIM_WRAPPERS
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor


@MODELS.register_module()
class Float32RPNHead(RPNHead):
    """RPN head with outputs, and so anchors and proposals, in float32."""

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Return scores and box deltas of each level, as mmdet's head does, in float32."""
        scores, deltas = super().forward(x)
        return [score.float() for score in scores], [delta.float() for delta in deltas]


@MODELS.register_module()
class Float32RoIExtractor(SingleRoIExtractor):
    """RoI extractor in float32."""

    def forward(
        self, feats: tuple[Tensor, ...], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """Return the features of the RoIs, shape (n, channels, height, width), float32."""
        return super().forward(tuple(x.float() for x in feats), rois, roi_scale_factor)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(AmpOptimWrapper):
    """MMEngine's wrapper without its demand for a GPU, to rehearse mixed precision."""

    def __init__(self, dtype: str, **kwargs) -> None:
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler('cpu')
        self.cast_dtype = getattr(torch, dtype)
