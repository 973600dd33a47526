"""LAMB and LARS on PyTorch's fused Adam and SGD kernels, for float32 tensors.

LAMB: given a buffer that holds ``wd * p`` in the place of parameters, a learning rate of -1 and no
decay, ``torch._fused_adam_`` updates both moments and leaves ``u`` in the buffer, in one pass.

LARS: ``torch._fused_sgd_`` computes ``buf <- momentum * buf + (1 - dampening) * (g + wd * p)`` and
``p <- p - lr * buf``. LARS passes its own rate, ``lr * r``, as ``1 - dampening``, and 1 as ``lr``.

On a CPU a tensor is updated in blocks that stay in the cache from one operation to the next: 44
bytes move per parameter for LAMB with the clip, 28 for LARS. On a GPU every operation takes a list
of tensors, and nothing is read back to the host. lamb.py and lars.py hold the mathematics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import as_float32
from .norms import NORM_BLOCK, in_memory_order, is_on_host, joined_norm, l2_norm, partial_norms

if TYPE_CHECKING:
    from .base import Observer
    from .lamb import LambScalars
    from .lars import LarsScalars
    from .saved_state import Trained

# Elements that go through all operations together: 4 MiB of each tensor. At an eighth of it, calls
# from Python take as long as the memory does; at more, a CPU's cache does not hold the blocks.
BLOCK = 1 << 20
# Blocks become smaller where the scratch buffer comes to its end, but not smaller than this.
SMALLEST = 1 << 14
# A GPU needs twice as many float32 besides parameters, gradients and state.
GPU_BATCH = 1 << 24

# The sequences that PyTorch's operations on lists of tensors take.
TensorList = tuple[Tensor, ...] | list[Tensor]
# 1-D views in the order of memory: p, g, m, v of LAMB; p, g and, with momentum, buf of LARS.
Views = tuple[Tensor, ...]
# Trust ratio, ||p|| and the norm of the update before scaling.
Numbers = tuple[Tensor | float, Tensor | float, Tensor | float]


def fused_views(*tensors: Tensor) -> Views | None:
    """Return views for the fused kernels, or None if these cannot take the tensors."""
    if tensors[0].device.type not in ('cpu', 'cuda'):
        return None
    if any([x.dtype != torch.float32 for x in tensors]):
        return None
    return in_memory_order(*tensors)


# LAMB.


class LambKernels:
    """Update tensors by LAMB, with one scratch buffer for those on a CPU.

    The buffer is a little smaller than the largest tensor: with the norms, a step takes no more
    memory than that tensor. Blocks of ``u`` fill it from the front and stay until the trust ratio
    is known; its end holds the block's gradient. The last blocks of the largest tensors, for which
    no space is left, are computed from the moments once more.
    """

    def __init__(self) -> None:
        self.scratch = torch.empty(0)
        self._largest = 0

    def update(
        self,
        tensors: Sequence[tuple[Trained, Tensor, Tensor]],
        hp: LambScalars,
        c: Tensor | float | None,
        observer: Observer | None,
    ) -> list[tuple[Trained, Tensor, Tensor]]:
        """Update those tensors of a group that the kernels take.

        Args:
            tensors (Sequence[tuple]): Parameters with their moments m and v.
            hp (LambScalars): The group's hyper-parameters.
            c (Tensor or float, optional): The divisor of the gradients.
            observer (Callable, optional): Called with the trust ratios.

        Returns:
            list[tuple]: The other tensors, which are left as they are.
        """
        fused: dict[torch.device, list[tuple[Tensor, Views]]] = {}
        others = []
        for param, m, v in tensors:
            # PyTorch's kernel always averages gradients.
            views = fused_views(param, param.grad, m, v) if hp.grad_averaging else None
            if views is None:
                others.append((param, m, v))
            else:
                fused.setdefault(param.device, []).append((param, views))
        for members in fused.values():
            numbers = self._update_on_one_device([views for _, views in members], hp, c)
            if observer is not None and hp.scaled:
                for (p, _), of_p in zip(members, numbers, strict=True):
                    observer(p, *of_p)
        return others

    def _update_on_one_device(
        self, tensors: Sequence[Views], hp: LambScalars, c: Tensor | float | None
    ) -> Sequence[Numbers]:
        """Return the trust ratio, ||p|| and ||u|| of every tensor that is scaled."""
        p = tensors[0][0]
        if not is_on_host(p):
            c = c.to(p.device) if isinstance(c, Tensor) else c
            if hp.scaled:
                return _lamb_in_lists(tensors, hp, c)
            _adam_step(tensors, hp, c)
            return []
        c = None if c is None or c == 1.0 else float(c)
        largest = max(views[0].numel() for views in tensors)
        self._reserve(largest if hp.scaled else min(largest, BLOCK))
        if not hp.scaled:
            _adam_step(tensors, hp, c, self.scratch)
            return []
        step = torch.tensor(hp.bias_correction_step, dtype=torch.float32)
        return [self._update_in_blocks(views, hp, c, step) for views in tensors]

    def _reserve(self, largest: int) -> None:
        if self._largest < largest:
            self._largest = largest
            size = max(largest - largest // 128, 4 * NORM_BLOCK)
            del self.scratch  # The old buffer goes before the new one comes.
            self.scratch = torch.empty(size, dtype=torch.float32, device='cpu')

    def _update_in_blocks(
        self, views: Views, hp: LambScalars, c: float | None, step: Tensor
    ) -> Numbers:
        p_norms, u_norms, blocks = [], [], []
        for p, g, m, v, u, keep in self.blocks(views):
            p_norms += partial_norms([p])
            if hp.adam_w_mode:
                torch.mul(p, hp.wd, out=u)
            else:
                u.zero_()
            _adam([u], [self._gradient(p, g, hp, c)], [m], [v], hp, -1.0, step)
            u_norms += partial_norms([u])
            blocks.append((p, m, v, u, keep))
        p_norm, u_norm = joined_norm(p_norms), joined_norm(u_norms)
        ratio = _trust_ratio(p_norm, u_norm, hp.trust_clip)
        # Backwards, since the cache holds the last blocks.
        for p, m, v, u, keep in reversed(blocks):
            if not keep:
                torch.div(v, hp.bc2, out=u).sqrt_().add_(hp.eps)
                torch.div(m, u, out=u).div_(hp.bc1)
                if hp.adam_w_mode:
                    u.add_(p, alpha=hp.wd)
            p.add_(u, alpha=-hp.lr * ratio)
        return ratio, p_norm, u_norm

    def blocks(self, views: Views) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, bool]]:
        """Cut a tensor into blocks, each with scratch for its ``u`` and as much behind it.

        Args:
            views (Views): Views of p, g, m and v.

        Yields:
            tuple: The block's p, g, m, v and u, and whether u is kept.
        """
        n, size = views[0].numel(), self.scratch.numel()
        start = kept = 0
        while start < n:
            free = (size - kept) // 2 // NORM_BLOCK * NORM_BLOCK
            length = min(BLOCK, n - start, free)
            keep = length >= SMALLEST or length == n - start
            pieces = views if length == n else tuple(x[start : start + length] for x in views)
            p, g, m, v = pieces
            yield p, g, m, v, self.scratch[kept : kept + length], keep
            start, kept = start + length, kept + length if keep else kept

    def _gradient(self, p: Tensor, g: Tensor, hp: LambScalars, c: float | None) -> Tensor:
        """Return the gradient after steps 1 and 2; ``p.grad`` is not changed."""
        out = self.scratch[-g.numel() :]
        if c is not None:
            # A CPU multiplies faster than it divides.
            g = torch.mul(g, 1.0 / c, out=out)
        if hp.wd != 0 and not hp.adam_w_mode:
            g = torch.add(g, p, alpha=hp.wd, out=out)
        return g


def _trust_ratio(p_norm: float, u_norm: float, clip: tuple[float, float] | None) -> float:
    ratio = p_norm / u_norm if p_norm != 0 and u_norm != 0 else 1.0
    if clip is None or math.isnan(ratio):
        return ratio
    return min(max(ratio, clip[0]), clip[1])


def _lamb_in_lists(
    tensors: Sequence[Views], hp: LambScalars, c: Tensor | float | None
) -> list[Numbers]:
    """Update tensors on a GPU that are scaled by their trust ratio."""
    numbers: list[Numbers] = []
    g: TensorList
    u: TensorList
    for batch in _batches(tensors, GPU_BATCH, cut=False):
        p, g, m, v = map(list, zip(*batch, strict=True))
        if c is not None:
            g = torch._foreach_div(g, c)
        if hp.wd != 0 and not hp.adam_w_mode:
            g = torch._foreach_add(g, p, alpha=hp.wd)
        u = torch._foreach_mul(p, hp.wd) if hp.adam_w_mode else [torch.zeros_like(x) for x in p]
        _adam(u, g, m, v, hp, -1.0)
        p_norms, u_norms = (torch.stack(torch._foreach_norm(x)) for x in (p, u))
        ratios = hp.trust_ratio(p_norms, u_norms)
        for p_i, u_i, factor in zip(p, u, (ratios * -hp.lr).unbind(), strict=True):
            p_i.addcmul_(u_i, factor)
        numbers += zip(ratios.unbind(), p_norms.unbind(), u_norms.unbind(), strict=True)
    return numbers


def _adam_step(
    tensors: Sequence[Views],
    hp: LambScalars,
    c: Tensor | float | None,
    scratch: Tensor | None = None,
) -> None:
    """Update tensors of ratio 1 without decay; ``scratch`` holds the divided gradients."""
    g: TensorList
    for batch in _batches(tensors, GPU_BATCH if scratch is None else scratch.numel()):
        p, g, m, v = map(list, zip(*batch, strict=True))
        if c is not None and scratch is not None:
            lengths = [x.numel() for x in g]
            divided = scratch[: sum(lengths)]
            torch.cat(g, out=divided).div_(c)
            g = divided.split(lengths)
        elif c is not None:
            g = torch._foreach_div(g, c)
        _adam(p, g, m, v, hp, hp.lr)


def _batches(tensors: Iterable[Views], limit: int, cut: bool = True) -> Iterator[list[Views]]:
    """Pack tensors into batches of at most ``limit`` elements; cut larger ones, or leave them."""
    batch: list[Views] = []
    free = limit
    for views in tensors:
        whole = not cut or views[0].numel() <= limit
        for pieces in [views] if whole else zip(*(x.split(limit) for x in views), strict=True):
            if batch and pieces[0].numel() > free:
                yield batch
                batch, free = [], limit
            batch.append(pieces)
            free -= pieces[0].numel()
    if batch:
        yield batch


def _adam(
    params: TensorList,
    g: TensorList,
    m: list[Tensor],
    v: list[Tensor],
    hp: LambScalars,
    lr: float,
    step: Tensor | None = None,
) -> None:
    """Update both moments, and ``params <- params - lr * u`` with u before decay."""
    if step is None:
        step = torch.full((), hp.bias_correction_step, dtype=torch.float32, device=params[0].device)
    torch._fused_adam_(
        params,
        g,
        m,
        v,
        [],
        [step] * len(params),
        lr=lr,
        beta1=hp.beta1,
        beta2=hp.beta2,
        weight_decay=0.0,
        eps=hp.eps,
        amsgrad=False,
        maximize=False,
    )


# LARS.


def update_lars(
    tensors: Sequence[tuple[Trained, Tensor | None]], hp: LarsScalars, observer: Observer | None
) -> list[tuple[Trained, Tensor | None]]:
    """Update those tensors of a group that the kernels take, by LARS.

    Args:
        tensors (Sequence[tuple]): Parameters with their momentum buffers, if they have one.
        hp (LarsScalars): The group's hyper-parameters.
        observer (Callable, optional): Called with the trust ratios.

    Returns:
        list[tuple]: The other tensors, which are left as they are.
    """
    fused: dict[torch.device, list[tuple[Tensor, Views]]] = {}
    others = []
    for p, buf in tensors:
        views = None
        if not hp.nesterov:
            views = fused_views(p, p.grad) if buf is None else fused_views(p, p.grad, buf)
        if views is None:
            others.append((p, buf))
        else:
            fused.setdefault(p.device, []).append((p, views))
    for members in fused.values():
        _lars_on_one_device(members, hp, observer)
    return others


def _lars_on_one_device(
    members: Sequence[tuple[Tensor, Views]], hp: LarsScalars, observer: Observer | None
) -> None:
    tensors = [views for _, views in members]
    if hp.excluded:
        _sgd(tensors, hp, hp.lr)
        return
    d_norms: list[Tensor] = []
    if observer is not None:
        d_norms = [l2_norm(g.add(p, alpha=hp.wd)) for p, g, *_ in tensors]
    if is_on_host(tensors[0][0]):
        numbers = [_lars_on_host(views, hp) for views in tensors]
    else:
        numbers = _lars_in_lists(tensors, hp)
    if observer is not None:
        for (p, _), of_p, d_norm in zip(members, numbers, d_norms, strict=True):
            observer(p, *of_p, d_norm)


def _lars_in_lists(
    tensors: Sequence[Views], hp: LarsScalars
) -> list[tuple[Tensor | float, Tensor | float]]:
    """Update tensors on a GPU; return their ratios and ||p||."""
    p, g = [views[0] for views in tensors], [views[1] for views in tensors]
    p_norms, g_norms = (torch.stack(torch._foreach_norm(x)) for x in (p, g))
    r = hp.trust_ratio(p_norms, g_norms)
    for (p_i, g_i, *buf), s in zip(tensors, (r * hp.lr).unbind(), strict=True):
        d = g_i if hp.wd == 0 else g_i.add(p_i, alpha=hp.wd)
        if buf:
            p_i.sub_(buf[0].mul_(hp.momentum).addcmul_(d, s, value=hp.grad_weight))
        else:
            p_i.addcmul_(d, s, value=-1)
    return list(zip(r.unbind(), p_norms.unbind(), strict=True))


def _lars_on_host(views: Views, hp: LarsScalars) -> tuple[Tensor | float, Tensor | float]:
    """Update a tensor on a CPU; return its ratio and ||p||."""
    p_norm, g_norm = (joined_norm(partial_norms([x])) for x in views[:2])
    r = 1.0
    if p_norm != 0 and g_norm != 0:
        r = as_float32(hp.eta * p_norm / (g_norm + hp.wd * p_norm + hp.eps))
    if views[0].numel() <= BLOCK:
        _sgd([views], hp, hp.lr * r)
        return r, p_norm
    # Backwards, since the cache holds the last elements.
    for block in reversed(list(zip(*(x.split(BLOCK) for x in views), strict=True))):
        _sgd([block], hp, hp.lr * r)
    return r, p_norm


def _sgd(tensors: Sequence[Views], hp: LarsScalars, s: float) -> None:
    p, g, *buf = map(list, zip(*tensors, strict=True))
    torch._fused_sgd_(
        p,
        g,
        buf[0] if buf else [],
        weight_decay=hp.wd,
        momentum=hp.momentum,
        lr=1.0 if buf else s,
        dampening=1.0 - s * hp.grad_weight if buf else 0.0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )
