"""L2 norms that are accurate at any size, and views of tensors in the order of memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Elements that one running float32 sum may add up; see l2_norm.
NORM_BLOCK = 1024
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_on_host(x: Tensor) -> bool:
    """Return True if a tensor's values can be read without waiting for a device."""
    return x.device.type == 'cpu'


def in_memory_order(*tensors: Tensor) -> tuple[Tensor, ...] | None:
    """Return 1-D views of tensors of one shape; None unless all share one dense memory format."""
    # Lists and not generators: this is called for every tensor in every step.
    if all([x.is_contiguous() for x in tensors]):
        if tensors[0].dim() == 1:
            return tensors
        return tuple([x.view(-1) for x in tensors])
    memory_format = _CHANNELS_LAST.get(tensors[0].dim())
    if memory_format and all(x.is_contiguous(memory_format=memory_format) for x in tensors):
        return tuple(x.as_strided((x.numel(),), (1,)) for x in tensors)
    return None


def l2_norm(x: Tensor) -> Tensor:
    """Return the L2 norm of a tensor, accurate to a few ulp at any size.

    On a CPU, PyTorch sums a tensor's squares in a few running float32 sums, which is off by up to
    4e-4 at 2 million elements. Here these sums are kept short: a norm per block of the tensor,
    then the norm of those, in float64. A GPU sums in a tree and needs no such help.

    Args:
        x (Tensor): A float32 or float64 tensor of any shape, an empty one included.

    Returns:
        Tensor: The norm, 0-d, of the dtype and on the device of ``x``; nothing is read back
        to the host.
    """
    if x.device.type != 'cpu' or x.numel() <= NORM_BLOCK:
        return torch.linalg.vector_norm(x)
    (flat,) = in_memory_order(x) or (x.flatten(),)
    parts = torch.hstack(partial_norms([flat]))
    return torch.linalg.vector_norm(parts, dtype=torch.float64).to(x.dtype)


def global_norm(tensors: Sequence[Tensor]) -> Tensor | float:
    """Return the L2 norm of all tensors together.

    Args:
        tensors (Sequence[Tensor]): float32 or float64 tensors of any shape.

    Returns:
        Tensor or float: A number if all are on a CPU, else 0-d on the first tensor's device.
    """
    if all(is_on_host(x) for x in tensors):
        return math.sqrt(sum(norm**2 for norm in _norms_on_host(tensors)))
    norms = [l2_norm(x) for x in tensors]
    dtype = max((norm.dtype for norm in norms), key=lambda dtype: dtype.itemsize)
    return l2_norm(torch.stack([norm.to(norms[0].device, dtype) for norm in norms]))


def _norms_on_host(tensors: Sequence[Tensor]) -> Iterator[float]:
    """Yield a norm for each large tensor, and one for all small tensors of a dtype.

    The last tensors come first, so that a cache holds the first ones when these are updated.
    """
    small: dict[torch.dtype, list[Tensor]] = {}
    for x in reversed(tensors):
        if x.numel() > NORM_BLOCK:
            yield joined_norm(partial_norms(in_memory_order(x) or [x.flatten()]))
        else:
            small.setdefault(x.dtype, []).append(x)
    for together in small.values():
        yield joined_norm(partial_norms(together))


def partial_norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return norms of pieces of at most ``NORM_BLOCK`` elements; longer tensors must be 1-D."""
    parts, rests = [], []
    for x in tensors:
        if x.numel() <= NORM_BLOCK:
            rests.append(x)
            continue
        rest = x.numel() % NORM_BLOCK
        if rest:
            rests.append(x[-rest:])
            x = x[:-rest]
        parts.append(torch.linalg.vector_norm(x.view(-1, NORM_BLOCK), dim=1))
    if len(rests) == 1:
        parts.append(torch.linalg.vector_norm(rests[0]).unsqueeze(0))
    elif rests:
        parts.append(torch.stack(torch._foreach_norm(rests)))
    return parts


def joined_norm(parts: list[Tensor]) -> float:
    """Return the norm of partial norms, in float64."""
    joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    if joined.numel() == 1:
        return joined.item()
    return torch.linalg.vector_norm(joined, dtype=torch.float64).item()
