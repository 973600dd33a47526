"""LARS on PyTorch's fused SGD kernel, for float32 tensors.

``torch._fused_sgd_`` makes ``buf <- momentum * buf + (1 - dampening) * (g + wd * p)`` and
``p <- p - lr * buf``. LARS has its own rate, ``s = lr * r``, inside the buffer; it is what the
kernel gets for ``1 - dampening``, and 1 is what it gets for ``lr``.

Bytes moved per parameter with momentum: 8 for the two norms and 20 for the rest. On a CPU, a tensor
that fits in the cache is read from memory once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import as_float32
from .fused_lamb import BLOCK
from .tensors import norm_of, partial_norms


class Row(NamedTuple):
    """A parameter, its gradient and its buffer, 1-D in the order of memory."""

    w: Tensor
    g: Tensor
    buf: Tensor | None


class Scalars(NamedTuple):
    """A group's hyper-parameters as the arithmetic takes them, each rounded to float32."""

    lr: float
    wd: float
    momentum: float
    eta: float
    eps: float
    # What a gradient enters the buffer times: 1 - dampening, and 1 at a parameter's first update.
    share: float


def update_excluded(rows: Sequence[Row], k: Scalars) -> None:
    """Update tensors on a CPU or a GPU whose ratio is 1, in one call.

    Args:
        rows (Sequence[Row]): The tensors, all on one device.
        k (Scalars): Their hyper-parameters.
    """
    _sgd(rows, k, k.lr)


def update_on_host(row: Row, k: Scalars) -> tuple[float, float]:
    """Update one tensor on a CPU.

    Args:
        row (Row): The tensor.
        k (Scalars): Its hyper-parameters.

    Returns:
        tuple[float, float]: Its trust ratio and ||p||.
    """
    p_norm, g_norm = norm_of(partial_norms([row.w])), norm_of(partial_norms([row.g]))
    r = 1.0
    if p_norm != 0 and g_norm != 0:
        r = as_float32(k.eta * p_norm / (g_norm + k.wd * p_norm + k.eps))
    if row.w.numel() <= BLOCK:
        _sgd([row], k, k.lr * r)
        return r, p_norm
    # Backwards, since the cache holds the last elements.
    blocks = zip(*(x.split(BLOCK) for x in row if x is not None), strict=True)
    for w, g, *buf in reversed(list(blocks)):
        _sgd([Row(w, g, *buf or [None])], k, k.lr * r)
    return r, p_norm


def update_in_lists(rows: Sequence[Row], k: Scalars) -> list[tuple[Tensor, Tensor]]:
    """Update tensors on a GPU without a host read.

    Args:
        rows (Sequence[Row]): The tensors, all on one device.
        k (Scalars): Their hyper-parameters.

    Returns:
        list[tuple[Tensor, Tensor]]: Of every row the trust ratio and ||p||, 0-d.
    """
    w, g = [row.w for row in rows], [row.g for row in rows]
    p_norms, g_norms = (torch.stack(torch._foreach_norm(x)) for x in (w, g))
    r = trust_ratio(p_norms, g_norms, k)
    for row, s in zip(rows, (r * k.lr).unbind(), strict=True):
        d = row.g if k.wd == 0 else row.g.add(row.w, alpha=k.wd)
        if row.buf is None:
            row.w.addcmul_(d, s, value=-1)
        else:
            row.buf.mul_(k.momentum).addcmul_(d, s, value=k.share)
            row.w.sub_(row.buf)
    return list(zip(r.unbind(), p_norms.unbind(), strict=True))


def trust_ratio(p_norm: Tensor, g_norm: Tensor, k: Scalars) -> Tensor:
    """Return the paper's local learning rate, on its device.

    Args:
        p_norm (Tensor): ||p||, of any shape.
        g_norm (Tensor): ||g||, of the same shape.
        k (Scalars): The group's hyper-parameters.

    Returns:
        Tensor: The ratios, of that shape; 1 where a norm is 0.
    """
    r = k.eta * p_norm / (g_norm + k.wd * p_norm + k.eps)
    return r.masked_fill_((p_norm == 0) | (g_norm == 0), 1.0)


def _sgd(rows: Sequence[Row], k: Scalars, s: float) -> None:
    with_momentum = rows[0].buf is not None
    torch._fused_sgd_(
        [row.w for row in rows],
        [row.g for row in rows],
        [row.buf for row in rows if row.buf is not None],
        weight_decay=k.wd,
        momentum=k.momentum,
        lr=1.0 if with_momentum else s,
        dampening=1.0 - s * k.share if with_momentum else 0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
