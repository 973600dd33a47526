"""LAMB in PyTorch, for any device. The steps 1 to 6 are those in ``LAMB``'s docstring.

float32 tensors go through PyTorch's fused kernel, in fused_lamb.py. Here is what these share with
the rest, and the rest: float64 and half precision, tensors whose parts are laid out differently in
memory, and a first moment without ``grad_averaging``, which that kernel does not have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..checks import as_float32
from .base import Observer, trained
from .fused_lamb import (
    BLOCK,
    Row,
    Scalars,
    UpdateInBlocks,
    trust_ratio,
    update_in_lists,
    update_unscaled,
)
from .tensors import (
    FUSED_ON,
    NORM_BLOCK,
    Trained,
    arithmetic_dtype,
    in_memory_order,
    is_on_host,
    l2_norm,
    norm_of,
    partial_norms,
)


class TorchLAMB:
    """Updates the groups and the state of another optimizer, leaving gradients as they are."""

    def __init__(self) -> None:
        self._blocks: UpdateInBlocks | None = None

    def step(
        self,
        param_groups: list[dict[str, Any]],
        state: dict[Tensor, dict[str, Any]],
        max_grad_norm: float | None,
        observer: Observer | None = None,
    ) -> None:
        """Make one update. Nothing is read back from a GPU to the host, so it is not waited for.

        Args:
            param_groups (list[dict]): The groups; their ``step`` advances.
            state (dict[Tensor, dict]): The moments per parameter, changed in place.
            max_grad_norm (float, optional): Where to clip the global gradient norm.
            observer (Callable, optional): Told of the trust ratios. Defaults to None.
        """
        c = None if max_grad_norm is None else _clip_factor(param_groups, as_float32(max_grad_norm))
        for group in param_groups:
            group['step'] = group.get('step', 0) + 1
            k = Scalars.of(group)
            fused: dict[torch.device, list[tuple[Tensor, Row]]] = {}
            for p in trained(group):
                row = _fused_row(p, state[p], group)
                if row is None:
                    _update(p, state[p], k, _on(p.device, c), observer)
                else:
                    fused.setdefault(p.device, []).append((p, row))
            for device, members in fused.items():
                self._update_fused(members, k, _on(device, c), observer)

    def _update_fused(
        self,
        members: list[tuple[Tensor, Row]],
        k: Scalars,
        c: Tensor | float | None,
        observer: Observer | None,
    ) -> None:
        rows = [row for _, row in members]
        if not is_on_host(rows[0][0]):
            if not k.scaled:
                update_unscaled(rows, k, c)
                return
            numbers = update_in_lists(rows, k, c)
            if observer is not None:
                for (p, _), of_p in zip(members, numbers, strict=True):
                    observer(p, *of_p)
            return
        divisor = None if c is None or c == 1.0 else float(c)
        largest = max(row[0].numel() for row in rows)
        if not k.scaled:
            update_unscaled(rows, k, divisor, self._blocks_of(min(largest, BLOCK)).buffer)
            return
        update, age = self._blocks_of(largest), torch.tensor(k.age, dtype=torch.float32)
        for p, row in members:
            of_row = update(row, k, divisor, age)
            if observer is not None:
                observer(p, *of_row)

    def _blocks_of(self, largest: int) -> UpdateInBlocks:
        if self._blocks is None or self._blocks.largest < largest:
            self._blocks = None  # The old buffer goes before the new one comes.
            self._blocks = UpdateInBlocks(largest)
        return self._blocks


def _on(device: torch.device, c: Tensor | float | None) -> Tensor | float | None:
    return c.to(device) if isinstance(c, Tensor) else c


def _clip_factor(param_groups: list[dict[str, Any]], max_grad_norm: float) -> Tensor | float | None:
    """Return the divisor c of step 1; None without gradients.

    It is a number if all is on a CPU, else 0-d and on the first gradient's device.
    """
    params = [p for group in param_groups for p in trained(group)]
    grads = [p.grad for p in params]
    if any([g.dtype != torch.float32 for g in grads]):
        grads = [g.to(arithmetic_dtype(p)) for p, g in zip(params, grads, strict=True)]
    if not grads:
        return None
    if all(is_on_host(g) for g in grads):
        G: Tensor | float = math.sqrt(sum(norm**2 for norm in _norms_on_host(grads)))
        return G / max_grad_norm if G > max_grad_norm else 1.0
    norms = [l2_norm(g) for g in grads]
    dtype = max((norm.dtype for norm in norms), key=lambda dtype: dtype.itemsize)
    G = l2_norm(torch.stack([norm.to(norms[0].device, dtype) for norm in norms]))
    return (G / max_grad_norm).masked_fill_(~(G > max_grad_norm), 1.0)


def _norms_on_host(grads: list[Tensor]) -> Iterator[float]:
    """Norms whose own norm is that of all gradients: of each large one, of small ones by dtype.

    The last gradients come first, so that a cache holds the first ones when these are updated.
    """
    small: dict[torch.dtype, list[Tensor]] = {}
    for g in reversed(grads):
        if g.numel() > NORM_BLOCK:
            yield norm_of(partial_norms(in_memory_order(g) or [g.flatten()]))
        else:
            small.setdefault(g.dtype, []).append(g)
    for together in small.values():
        yield norm_of(partial_norms(together))


def _fused_row(p: Trained, state: dict[str, Any], group: dict[str, Any]) -> Row | None:
    """Return the tensors of a parameter for the fused kernel; None if it cannot take them.

    A parameter without moments gets them.
    """
    if 'exp_avg' not in state:
        for name in ('exp_avg', 'exp_avg_sq'):
            state[name] = torch.zeros_like(p, dtype=arithmetic_dtype(p))
    tensors = p, p.grad, state['exp_avg'], state['exp_avg_sq']
    if p.device.type not in FUSED_ON or not group['grad_averaging']:
        return None
    if any([x.dtype != torch.float32 for x in tensors]):
        return None
    row: Any = in_memory_order(*tensors)
    return row


def _update(
    p: Trained,
    state: dict[str, Any],
    k: Scalars,
    c: Tensor | float | None,
    observer: Observer | None,
) -> None:
    """Steps 1 to 6 for one tensor; ``w`` is ``p`` in the dtype of the arithmetic."""
    dtype = arithmetic_dtype(p)
    w, g = p.to(dtype), p.grad.to(dtype)
    m, v = state['exp_avg'], state['exp_avg_sq']

    if c is not None:
        g = g / c
    if k.wd != 0 and not k.adam_w_mode:
        g = g.add(w, alpha=k.wd)

    m.mul_(k.beta1).add_(g, alpha=k.beta3)
    v.mul_(k.beta2).addcmul_(g, g, value=k.one_minus_beta2)

    u = (m / k.bc1).div_((v / k.bc2).sqrt_().add_(k.eps))
    if k.wd != 0 and k.adam_w_mode:
        u.add_(w, alpha=k.wd)

    ratio: Tensor | float = 1.0
    if k.scaled:
        w_norm, u_norm = l2_norm(w), l2_norm(u)
        ratio = trust_ratio(w_norm, u_norm, k.trust_clip)
        if observer is not None:
            observer(p, ratio, w_norm, u_norm)
    p.copy_(w.sub_(u.mul_(k.lr * ratio)))
