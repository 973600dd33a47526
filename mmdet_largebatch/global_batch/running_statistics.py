"""Running statistics of batch norm, updated once an update."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .collectives import is_sync_bn

# Multiples of 2^-16 and, of the rest, of 2^-60: float64 sums of either have no rounding and so no
# order, for values up to 2^37 over the number of micro-batches.
COARSE, FINE = 2.0**16, 2.0**44


class RunningStatistics:
    """Update running statistics by their mean over the micro-batches of an update.

    Each micro-batch begins with the statistics of the start of the update, in PyTorch's own code.
    Afterwards they are the mean of the results, the same on all ranks, and ``num_batches_tracked``
    is as after one micro-batch. SyncBN and layers in evaluation mode are left alone.

    Args:
        model (nn.Module): The model, wrapped by DDP or not.
        ranks (int): Number of ranks.
        micro_batches (int): Number of micro-batches of an update, over all ranks.
    """

    def __init__(self, model: nn.Module, ranks: int, micro_batches: int) -> None:
        self.model = model
        self.ranks = ranks
        self.micro_batches = micro_batches
        self._layers: list[_NormBase] = []
        self._buffers: list[Tensor] = []

    def look(self) -> None:
        """Find the layers that have statistics."""
        if self.micro_batches > 1:
            self._layers = [
                module
                for module in self.model.modules()
                if isinstance(module, _NormBase) and module.running_mean is not None
            ]

    def begin(self) -> None:
        """Begin an update."""
        # The data alone: autograd counts changes of buffers that it holds for a backward pass.
        self._buffers = [
            buffer.data
            for layer in self._layers
            if layer.training and not is_sync_bn(layer)
            for buffer in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
            if buffer is not None
        ]
        self._start = [buffer.clone() for buffer in self._buffers]
        self._sums: Tensor | None = None

    @contextmanager
    def micro_batch(self) -> Iterator[None]:
        """Context of a micro-batch: from the start's statistics to its own, which are added up."""
        if not self._buffers:
            yield
            return
        torch._foreach_copy_(self._buffers, self._start)
        yield
        values = torch.cat([buffer.double().flatten() for buffer in self._buffers]) * COARSE
        coarse = values.round()
        parts = torch.stack([coarse, ((values - coarse) * FINE).round()])
        self._sums = parts if self._sums is None else self._sums + parts

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Context of a backward pass: activation checkpointing computes layers again there."""
        before = [buffer.clone() for buffer in self._buffers]
        yield
        if before:
            torch._foreach_copy_(self._buffers, before)

    def finish(self) -> None:
        """Set the means, at the end of an update. With more than one rank this communicates."""
        if self._sums is None:
            return
        if self.ranks > 1:
            all_reduce(self._sums)
        means = (self._sums[0] + self._sums[1] / FINE) / (COARSE * self.micro_batches)
        sizes = [buffer.numel() for buffer in self._buffers]
        for buffer, mean in zip(self._buffers, means.split(sizes), strict=True):
            # A layer that some micro-batches leave out has counted one.
            mean = mean if buffer.is_floating_point() else mean.ceil()
            buffer.copy_(mean.reshape(buffer.shape))
