"""One optimizer update out of several micro-batches."""

from contextlib import contextmanager, nullcontext
from typing import Any, Dict, Iterator, List

import torch
from mmengine.dist import all_reduce
from mmengine.optim import OptimWrapper
from torch import Tensor, nn


class Accumulation:
    """Stands in for the optim wrapper in a model's ``train_step``, and withholds the step.

    Of an optim wrapper a ``train_step`` uses ``optim_context`` and ``update_params``. Here the
    first keeps DDP from synchronising before the last micro-batch, and the second computes
    gradients alone, so that what the wrapper adds (mixed precision, loss scaling, clipping) is its
    own and happens once an update.

    Args:
        optim_wrapper (OptimWrapper): The wrapper that makes the update.
        ranks (int): Number of ranks, over which DDP takes the mean of the gradients.
        micro_batches (int): Number of micro-batches of an update, over all ranks.
    """

    def __init__(self, optim_wrapper: OptimWrapper, ranks: int, micro_batches: int) -> None:
        self.optim_wrapper = optim_wrapper
        # DDP divides the sum over ranks by their number, whatever number of micro-batches each had.
        self.loss_scale = ranks / micro_batches
        self.synchronise = False

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Context of a forward pass.

        Args:
            model (nn.Module): The model, wrapped by DDP or not.

        Yields:
            None.
        """
        quiet = not self.synchronise and hasattr(model, 'no_sync')
        with model.no_sync() if quiet else nullcontext():
            with self.optim_wrapper.optim_context(model):
                yield

    def update_params(self, loss: Tensor) -> None:
        """Add a micro-batch's part of the gradient of the update.

        Args:
            loss (Tensor): Its loss, 0-d.
        """
        self.optim_wrapper.backward(loss * self.loss_scale)

    def step(self) -> None:
        """Update the parameters with the mean gradient of the global batch."""
        self.optim_wrapper.step()
        self.optim_wrapper.zero_grad()


def global_mean(outputs: List[Dict[str, Any]], ranks: int, micro_batches: int) -> Dict[str, Any]:
    """What was logged of each micro-batch, as the mean over the global batch.

    Args:
        outputs (List[Dict[str, Any]]): For each micro-batch of this rank its losses and other
            values by name, 0-d tensors; the same names for all.
        ranks (int): Number of ranks. With more than one this communicates, once.
        micro_batches (int): Number of micro-batches of an update, over all ranks.

    Returns:
        Dict[str, Any]: The means, by name.
    """
    if micro_batches == 1:
        return outputs[0]
    names = list(outputs[0])
    sums = torch.stack([torch.stack([output[name] for name in names]) for output in outputs]).sum(0)
    if ranks > 1:
        all_reduce(sums)
    return dict(zip(names, sums / micro_batches, strict=True))
