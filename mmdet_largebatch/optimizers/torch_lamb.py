"""LAMB in PyTorch, for any device. The steps 1 to 6 are those in ``LAMB``'s docstring."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .base import arithmetic_dtype, l2_norm, trained
from .checks import as_float32


class TorchLAMB:
    """Updates the groups and the state of another optimizer, leaving gradients as they are."""

    def step(
        self,
        param_groups: list[dict[str, Any]],
        state: dict[Tensor, dict[str, Any]],
        max_grad_norm: float | None,
    ) -> None:
        """Make one update. Nothing is read back to the host, so a GPU is not waited for.

        Args:
            param_groups (list[dict]): The groups; their ``step`` advances.
            state (dict[Tensor, dict]): The moments per parameter, changed in place.
            max_grad_norm (float, optional): Where to clip the global gradient norm.
        """
        c = None if max_grad_norm is None else _clip_factor(param_groups, as_float32(max_grad_norm))
        for group in param_groups:
            group['step'] = group.get('step', 0) + 1
            scalars = _Scalars.of(group)
            for p in trained(group):
                _update(p, state[p], group, scalars, None if c is None else c.to(p.device))


class _Scalars(NamedTuple):
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

    @classmethod
    def of(cls, group: dict[str, Any]) -> _Scalars:
        beta1, beta2 = map(as_float32, group['betas'])
        corrected = group['bias_correction']
        return cls(
            lr=as_float32(group['lr']),
            wd=as_float32(group['weight_decay']),
            eps=as_float32(group['eps']),
            beta1=beta1,
            beta2=beta2,
            beta3=as_float32(1 - beta1) if group['grad_averaging'] else 1.0,
            # From the rounded beta2: 1 - 0.999 in double would put v off by 1e-5.
            one_minus_beta2=as_float32(1 - beta2),
            bc1=as_float32(1 - beta1 ** group['step']) if corrected else 1.0,
            bc2=as_float32(1 - beta2 ** group['step']) if corrected else 1.0,
        )


def _clip_factor(param_groups: list[dict[str, Any]], max_grad_norm: float) -> Tensor | None:
    """The factor c of step 1, 0-d and on the first gradient's device; None without gradients."""
    norms = [
        l2_norm(p.grad.to(arithmetic_dtype(p))) for group in param_groups for p in trained(group)
    ]
    if not norms:
        return None
    dtype = max((norm.dtype for norm in norms), key=lambda dtype: dtype.itemsize)
    G = l2_norm(torch.stack([norm.to(norms[0].device, dtype) for norm in norms]))
    return (G / max_grad_norm).masked_fill_(~(G > max_grad_norm), 1.0)


def _update(
    p: Tensor, state: dict[str, Any], group: dict[str, Any], k: _Scalars, c: Tensor | None
) -> None:
    """All steps for one tensor; ``w`` is ``p`` in the dtype of the arithmetic."""
    dtype = arithmetic_dtype(p)
    w, g = p.to(dtype), p.grad.to(dtype)
    if 'exp_avg' not in state:
        state['exp_avg'] = torch.zeros_like(p, dtype=dtype)
        state['exp_avg_sq'] = torch.zeros_like(p, dtype=dtype)
    m, v = state['exp_avg'], state['exp_avg_sq']

    if c is not None:
        g = g / c
    if k.wd != 0 and not group['adam_w_mode']:
        g = g.add(w, alpha=k.wd)

    m.mul_(k.beta1).add_(g, alpha=k.beta3)
    v.mul_(k.beta2).addcmul_(g, g, value=k.one_minus_beta2)

    u = (m / k.bc1).div_((v / k.bc2).sqrt_().add_(k.eps))
    if k.wd != 0 and group['adam_w_mode']:
        u.add_(w, alpha=k.wd)

    scaled = k.wd != 0 or group['use_nvlamb']
    ratio = _trust_ratio(w, u, group['trust_clip']) if scaled else 1.0
    p.copy_(w.sub_(u.mul_(k.lr * ratio)))


def _trust_ratio(w: Tensor, u: Tensor, trust_clip: tuple[float, float] | None) -> Tensor:
    """Step 5's ratio of one tensor, 0-d and still on its device; a NaN norm makes it NaN."""
    w_norm, u_norm = l2_norm(w), l2_norm(u)
    ratio = (w_norm / u_norm).masked_fill_((w_norm == 0) | (u_norm == 0), 1.0)
    if trust_clip is None:
        return ratio
    low, high = map(as_float32, trust_clip)
    return ratio.clamp_(low, high)
