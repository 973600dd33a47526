"""Tensors as the optimizers take them: dtype of the arithmetic, accurate norms, memory order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

# Elements that one running float32 sum may add up; see l2_norm.
NORM_BLOCK = 1024
# The devices on which PyTorch has fused Adam and SGD kernels.
FUSED_ON = ('cpu', 'cuda')
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
# The sequences that PyTorch's operations on lists of tensors take.
TensorList = tuple[Tensor, ...] | list[Tensor]


class Trained(Tensor):
    """Type of a parameter that has a gradient."""

    grad: Tensor


def arithmetic_dtype(param: Tensor) -> torch.dtype:
    """Return the dtype of a parameter's update and state.

    Args:
        param (Tensor): The parameter.

    Returns:
        torch.dtype: float64 for a float64 parameter, float32 for any other.
    """
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def is_on_host(x: Tensor) -> bool:
    """Return True if a tensor's values can be read without waiting for a device.

    Args:
        x (Tensor): Any tensor.

    Returns:
        bool: True on a CPU.
    """
    return x.device.type == 'cpu'


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


def partial_norms(flats: Sequence[Tensor]) -> list[Tensor]:
    """Norms of short pieces, whose own norm is that of all the tensors together.

    Args:
        flats (Sequence[Tensor]): Tensors on one CPU, of one dtype; 1-D if longer than
            ``NORM_BLOCK``.

    Returns:
        list[Tensor]: 1-D tensors of norms, each of at most ``NORM_BLOCK`` elements' sum.
    """
    parts, rests = [], []
    for x in flats:
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


def norm_of(parts: TensorList) -> float:
    """Put ``partial_norms`` together, in float64.

    Args:
        parts (list[Tensor]): What ``partial_norms`` returned, or several of its returns.

    Returns:
        float: The norm; 0 of nothing.
    """
    if not parts:
        return 0.0
    joined = torch.cat(parts) if len(parts) > 1 else parts[0]
    if joined.numel() == 1:
        return joined.item()
    return torch.linalg.vector_norm(joined, dtype=torch.float64).item()


def in_memory_order(*tensors: Tensor) -> tuple[Tensor, ...] | None:
    """1-D views of tensors of one shape, their elements in the order in which they are stored.

    Args:
        *tensors (Tensor): Tensors of one shape, which is not checked here: the optimizers check
            it once a step, before anything is changed.

    Returns:
        tuple[Tensor, ...] or None: The views, in which equal places belong together; None where
        the tensors are not all contiguous in one and the same memory format.
    """
    # Lists and not generators: this is called for every tensor in every step.
    if all([x.is_contiguous() for x in tensors]):
        if tensors[0].dim() == 1:
            return tensors
        return tuple([x.view(-1) for x in tensors])
    memory_format = _CHANNELS_LAST.get(tensors[0].dim())
    if memory_format and all(x.is_contiguous(memory_format=memory_format) for x in tensors):
        return tuple(x.as_strided((x.numel(),), (1,)) for x in tensors)
    return None


def batches(rows: Iterable[tuple[Tensor, ...]], limit: int) -> Iterator[list[tuple[Tensor, ...]]]:
    """Cut 1-D tensors into pieces and pack these into batches.

    Args:
        rows (Iterable[tuple[Tensor, ...]]): Tuples of 1-D tensors of one length each.
        limit (int): Elements that the tensors of one place in the tuples may have in a batch.

    Yields:
        list[tuple[Tensor, ...]]: Tuples of pieces, all of the rows in their order.
    """
    batch: list[tuple[Tensor, ...]] = []
    room = limit
    for row in rows:
        whole = row[0].numel() <= limit
        for pieces in [row] if whole else zip(*(x.split(limit) for x in row), strict=True):
            if pieces[0].numel() > room:
                yield batch
                batch, room = [], limit
            batch.append(pieces)
            room -= pieces[0].numel()
    if batch:
        yield batch
