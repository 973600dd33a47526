"""A user's detector, one of whose parameters has no part in the loss of the second rank."""

import torch
from mmdet.models import FasterRCNN
from mmdet.registry import MODELS
from mmengine.dist import get_rank


@MODELS.register_module()
class IdleHead(FasterRCNN):
    """Faster R-CNN with a head that the second rank does not use."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.head = torch.nn.Parameter(torch.ones(()))

    def loss(self, batch_inputs, batch_data_samples):
        losses = super().loss(batch_inputs, batch_data_samples)
        if get_rank() == 0:
            losses['loss_head'] = self.head * 0.1
        return losses
