"""Gradients of parameters that a hook unfroze after DDP was built."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


class Unfrozen:
    """Average gradients that DDP ignores: of parameters that were frozen when it was built.

    Under MMEngine's own loop the weights of such parameters go apart on the ranks without a word.

    Args:
        model (nn.Module): The model, before any hook may have unfrozen a part of it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.frozen = []
        if isinstance(model, DistributedDataParallel):
            self.frozen = [p for p in model.parameters() if not p.requires_grad]

    def synchronise(self) -> None:
        """Replace their gradients by the means over all ranks, as DDP does."""
        for p in self.frozen:
            if p.requires_grad:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                dist.all_reduce(p.grad)
                p.grad /= dist.get_world_size()
