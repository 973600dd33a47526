"""A user's detector that communicates between the ranks in its loss."""

import torch.distributed as dist
from mmdet.models import FasterRCNN
from mmdet.registry import MODELS


@MODELS.register_module()
class Communicating(FasterRCNN):
    """Faster R-CNN that logs the sum of a loss over the ranks."""

    def loss(self, batch_inputs, batch_data_samples):
        losses = super().loss(batch_inputs, batch_data_samples)
        total = losses['loss_cls'].detach().clone()
        dist.all_reduce(total)
        return losses | dict(total=total)
