"""LAMB on PyTorch's fused Adam kernel, for float32 tensors.

Given a buffer that holds ``wd * p`` in the place of parameters, a learning rate of -1 and no decay,
``torch._fused_adam_`` updates both moments and leaves ``u`` of LAMB's step 4 in the buffer, in one
pass. Given the parameters themselves and LAMB's learning rate, it makes the whole update of tensors
that are not scaled by a trust ratio.

Bytes moved per parameter: 40, and 4 for the norm that clips. ``UpdateInBlocks`` moves no more on a
CPU: it goes through a tensor in blocks that stay in the cache from one operation to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import as_float32
from .tensors import NORM_BLOCK, TensorList, batches, norm_of, partial_norms

# Elements that go through all operations together: 4 MiB of each tensor. At an eighth of it, calls
# from Python take as long as the memory does; at more, a CPU's cache does not hold the blocks.
BLOCK = 1 << 20
# Blocks become smaller where a buffer comes to its end, but not smaller than this.
SMALLEST = 1 << 14
# What a GPU needs besides parameters, gradients and state: twice as many float32.
GPU_BATCH = 1 << 24

# A parameter, its gradient and its two moments, each as a 1-D tensor in the order of memory.
Row = tuple[Tensor, Tensor, Tensor, Tensor]


class Scalars(NamedTuple):
    """A group's hyper-parameters as the arithmetic takes them, each rounded to float32."""

    lr: float
    wd: float
    eps: float
    beta1: float
    beta2: float
    beta3: float
    one_minus_beta2: float
    bc1: float
    bc2: float
    age: float
    adam_w_mode: bool
    scaled: bool
    trust_clip: tuple[float, float] | None

    @classmethod
    def of(cls, group: dict[str, Any]) -> Scalars:
        """Take them from a group whose ``step`` counts this update already.

        Args:
            group (dict[str, Any]): A group of ``LAMB``.

        Returns:
            Scalars: ``age`` is the step that corrects the bias so: infinite for no correction.
        """
        beta1, beta2 = map(as_float32, group['betas'])
        corrected = group['bias_correction']
        wd, clip = as_float32(group['weight_decay']), group['trust_clip']
        return cls(
            lr=as_float32(group['lr']),
            wd=wd,
            eps=as_float32(group['eps']),
            beta1=beta1,
            beta2=beta2,
            beta3=as_float32(1 - beta1) if group['grad_averaging'] else 1.0,
            # From the rounded beta2: 1 - 0.999 in double would put v off by 1e-5.
            one_minus_beta2=as_float32(1 - beta2),
            bc1=as_float32(1 - beta1 ** group['step']) if corrected else 1.0,
            bc2=as_float32(1 - beta2 ** group['step']) if corrected else 1.0,
            age=float(group['step']) if corrected else math.inf,
            adam_w_mode=group['adam_w_mode'],
            scaled=wd != 0 or group['use_nvlamb'],
            trust_clip=None if clip is None else (as_float32(clip[0]), as_float32(clip[1])),
        )


def update_unscaled(
    rows: Sequence[Row], k: Scalars, c: Tensor | float | None, room: Tensor | None = None
) -> None:
    """Update tensors whose trust ratio is 1 and that have no weight decay: an Adam step.

    Args:
        rows (Sequence[Row]): The tensors, all on one device.
        k (Scalars): Their group's hyper-parameters.
        c (Tensor or float, optional): What gradients are divided by; a Tensor is 0-d and on
            the tensors' device.
        room (Tensor, optional): Where divided gradients go, 1-D; None takes new memory.
    """
    g: TensorList
    for batch in batches(rows, GPU_BATCH if room is None else room.numel()):
        w, g, m, v = map(list, zip(*batch, strict=True))
        if c is not None and room is not None:
            lengths = [x.numel() for x in g]
            divided = room[: sum(lengths)]
            torch.cat(g, out=divided).div_(c)
            g = divided.split(lengths)
        elif c is not None:
            g = torch._foreach_div(g, c)
        _adam(w, g, m, v, k, k.lr)


def update_in_lists(
    rows: Sequence[Row],
    k: Scalars,
    c: Tensor | float | None,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Update tensors that are scaled by their trust ratio, without a host read: for a GPU.

    Args:
        rows (Sequence[Row]): The tensors, all on one device.
        k (Scalars): Their group's hyper-parameters.
        c (Tensor or float, optional): What gradients are divided by; a Tensor is 0-d and on
            the tensors' device.

    Returns:
        list[tuple[Tensor, Tensor, Tensor]]: Of every row the trust ratio, ||p|| and ||u||, 0-d.
    """
    done = 0
    numbers: list[tuple[Tensor, Tensor, Tensor]] = []
    g: TensorList
    u: TensorList
    for size in _batch_sizes([row[0].numel() for row in rows], GPU_BATCH):
        w, g, m, v = map(list, zip(*rows[done : done + size], strict=True))
        if c is not None:
            g = torch._foreach_div(g, c)
        if k.wd != 0 and not k.adam_w_mode:
            g = torch._foreach_add(g, w, alpha=k.wd)
        u = torch._foreach_mul(w, k.wd) if k.adam_w_mode else [torch.zeros_like(x) for x in w]
        _adam(u, g, m, v, k, -1.0)
        w_norms, u_norms = (torch.stack(torch._foreach_norm(x)) for x in (w, u))
        ratios = trust_ratio(w_norms, u_norms, k.trust_clip)
        for w_i, u_i, factor in zip(w, u, (ratios * -k.lr).unbind(), strict=True):
            w_i.addcmul_(u_i, factor)
        numbers += zip(ratios.unbind(), w_norms.unbind(), u_norms.unbind(), strict=True)
        done += size
    return numbers


def _batch_sizes(lengths: Sequence[int], limit: int) -> Iterator[int]:
    """Split tensors into batches of at most ``limit`` elements, or of one tensor."""
    count = elements = 0
    for length in lengths:
        if count and elements + length > limit:
            yield count
            count = elements = 0
        count, elements = count + 1, elements + length
    if count:
        yield count


class UpdateInBlocks:
    """Updates tensors on a CPU that are scaled by their trust ratio, one by one.

    It keeps one buffer, a little smaller than the largest tensor: with the norms, a step takes no
    more memory than that tensor. From the front it fills with ``u``, which is kept until the ratio
    is known; its end is lent to the block's gradient. The last piece of the largest tensors, for
    which no room is left, is computed from the moments once more.

    Args:
        largest (int): Elements of the largest tensor.
    """

    def __init__(self, largest: int) -> None:
        self.largest = largest
        size = max(largest - largest // 128, 4 * NORM_BLOCK)
        self.buffer = torch.empty(size, dtype=torch.float32, device='cpu')

    def __call__(
        self, row: Row, k: Scalars, c: float | None, age: Tensor
    ) -> tuple[float, float, float]:
        """Update one tensor.

        Args:
            row (Row): The tensor, of at most ``largest`` elements.
            k (Scalars): Its group's hyper-parameters.
            c (float, optional): What the gradient is divided by.
            age (Tensor): ``k.age``, 0-d, one for all tensors of a group.

        Returns:
            tuple[float, float, float]: The trust ratio, ||p|| and ||u||.
        """
        w_norms, u_norms, blocks = [], [], []
        for w, g, m, v, u, keep in self.cut(row):
            w_norms += partial_norms([w])
            if k.adam_w_mode:
                torch.mul(w, k.wd, out=u)
            else:
                u.zero_()
            _adam([u], [self._clipped(w, g, k, c)], [m], [v], k, -1.0, age)
            u_norms += partial_norms([u])
            blocks.append((w, m, v, u, keep))
        w_norm, u_norm = norm_of(w_norms), norm_of(u_norms)
        ratio = _trust_ratio_on_host(w_norm, u_norm, k.trust_clip)
        # Backwards, since the cache holds the last blocks.
        for w, m, v, u, keep in reversed(blocks):
            if not keep:
                _direction(w, m, v, k, out=u)
            w.add_(u, alpha=-k.lr * ratio)
        return ratio, w_norm, u_norm

    def cut(self, row: Row) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, bool]]:
        """Cut a tensor into blocks, each with a place for its ``u`` and as much room behind it.

        Args:
            row (Row): The tensor.

        Yields:
            tuple: The block's parameter, gradient, moments and ``u``, and whether that is kept.
        """
        n, size = row[0].numel(), self.buffer.numel()
        start = kept = 0
        while start < n:
            room = (size - kept) // 2 // NORM_BLOCK * NORM_BLOCK
            length = min(BLOCK, n - start, room)
            keep = length >= SMALLEST or length == n - start
            pieces = row if length == n else (x[start : start + length] for x in row)
            yield *pieces, self.buffer[kept : kept + length], keep
            start, kept = start + length, kept + length if keep else kept

    def _clipped(self, w: Tensor, g: Tensor, k: Scalars, c: float | None) -> Tensor:
        """Return the gradient after steps 1 and 2; ``p.grad`` is not changed."""
        room = self.buffer[-g.numel() :]
        if c is not None:
            # A CPU multiplies faster than it divides.
            g = torch.mul(g, 1.0 / c, out=room)
        if k.wd != 0 and not k.adam_w_mode:
            g = torch.add(g, w, alpha=k.wd, out=room)
        return g


def _adam(
    params: TensorList,
    g: TensorList,
    m: list[Tensor],
    v: list[Tensor],
    k: Scalars,
    lr: float,
    age: Tensor | None = None,
) -> None:
    """Both moments of step 3, and ``params <- params - lr * u`` with step 4's u without decay."""
    if age is None:
        age = torch.full((), k.age, dtype=torch.float32, device=params[0].device)
    torch._fused_adam_(
        params,
        g,
        m,
        v,
        [],
        [age] * len(params),
        lr=lr,
        beta1=k.beta1,
        beta2=k.beta2,
        weight_decay=0.0,
        eps=k.eps,
        amsgrad=False,
        maximize=False,
    )


def _direction(w: Tensor, m: Tensor, v: Tensor, k: Scalars, out: Tensor) -> None:
    """Step 4's ``u`` from moments that are updated already."""
    torch.div(v, k.bc2, out=out).sqrt_().add_(k.eps)
    torch.div(m, out, out=out).div_(k.bc1)
    if k.adam_w_mode:
        out.add_(w, alpha=k.wd)


def trust_ratio(w_norm: Tensor, u_norm: Tensor, clip: tuple[float, float] | None) -> Tensor:
    """Step 5's ratio, still on its device; a NaN norm makes it NaN.

    Args:
        w_norm (Tensor): ||p||, of any shape.
        u_norm (Tensor): ||u||, of the same shape.
        clip (tuple[float, float], optional): Lowest and highest ratio.

    Returns:
        Tensor: The ratios, of that shape.
    """
    ratio = (w_norm / u_norm).masked_fill_((w_norm == 0) | (u_norm == 0), 1.0)
    return ratio if clip is None else ratio.clamp_(*clip)


def _trust_ratio_on_host(w_norm: float, u_norm: float, clip: tuple[float, float] | None) -> float:
    ratio = w_norm / u_norm if w_norm != 0 and u_norm != 0 else 1.0
    if clip is None or math.isnan(ratio):
        return ratio
    return min(max(ratio, clip[0]), clip[1])
