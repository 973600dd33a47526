"""Add floating-point numbers as multiples of 2^-44: integers, whose sum has no order."""

import torch
import torch.distributed as dist
from torch import Tensor

# Integers a unit. Scaling by a power of two is exact.
UNIT = 2.0**44
# Sums stay below this, a quarter of what int64 holds.
LARGEST = 2.0**61


def limit(summands: int) -> float:
    """Return the greatest magnitude of a summand.

    Args:
        summands (int): Number of summands.

    Returns:
        float: The magnitude; no sum of so many leaves the range of the integers.
    """
    return LARGEST / UNIT / summands


def sum_over_ranks(integers: Tensor, out: Tensor) -> None:
    """Add integers over the ranks and round the sums to floating point.

    Each rank adds a part of them. The sums then travel in the type of `out`, half the size.

    Args:
        integers (Tensor): Flat, int64; its size is a multiple of the number of ranks.
        out (Tensor): Flat, floating-point, of the same size; the sums are written to it.
    """
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if ranks == 1:
        out.copy_(integers)
        return
    parts = torch.empty_like(integers)
    dist.all_to_all_single(parts, integers)
    own = parts.view(ranks, -1).sum(0).to(out.dtype)
    dist.all_gather(list(out.chunk(ranks)), own)


def exact_sum_line(exact: bool) -> str:
    """Return the line of the log that says how gradients are added.

    Args:
        exact (bool): Value of ``train_cfg.exact_sum``.

    Returns:
        str: The line.
    """
    if not exact:
        return (
            'exact_sum=False: gradients are added in floating point, on another number of ranks in '
            'another order'
        )
    line = 'exact_sum=True: gradients are added as integers, the same on any number of ranks'
    if torch.cuda.is_available():
        line += (
            "; on CUDA the bits of a gradient itself vary: the backward pass of mmcv's RoIAlign "
            'adds atomically'
        )
    return line
