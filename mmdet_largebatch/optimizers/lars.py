"""LARS: SGD with momentum whose step is scaled per tensor by the norms of weight and gradient.

Paper: You, Gitman and Ginsburg, Large Batch Training of Convolutional Networks,
https://arxiv.org/abs/1708.03888, Algorithm 1. mmpretrain's ``LARS`` gives the same numbers, reading
two norms a parameter back to the host; this one reads none. timm's ``Lars`` and Apex's ``LARC``
apply the learning rate outside the momentum buffer: equal only while it is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from mmdet.registry import OPTIMIZERS
from torch import Tensor

from ..checks import as_float32, check_flag, check_fraction, check_non_negative
from ..errors import SettingError
from .base import LayerwiseOptimizer, trained
from .fused_lars import Row, Scalars, trust_ratio, update_excluded, update_in_lists, update_on_host
from .tensors import FUSED_ON, Trained, arithmetic_dtype, in_memory_order, is_on_host, l2_norm


@OPTIMIZERS.register_module()
class LARS(LayerwiseOptimizer):
    r"""Layer-wise adaptive rate scaling.

    For every tensor :math:`p` with gradient :math:`g`:

    .. math::
        r &= \eta \|p\| / (\|g\| + wd \|p\| + eps)\\
        d &= g + wd\, p\\
        buf &\leftarrow momentum\, buf + lr\, r\, d\\
        p &\leftarrow p - buf

    :math:`r` is 1 where :math:`\|p\|` or :math:`\|g\|` is exactly 0. With ``nesterov`` the last
    line is :math:`p \leftarrow p - (momentum\, buf + lr\, r\, d)`. The learning rate is inside the
    buffer, so a changing one does not rescale the history.

    A group with ``lars_exclude=True`` (mmpretrain's name for it) gets :math:`r = 1`. That is 1,000
    times, at the default ``eta``, what a tensor gets whose weight and gradient have like norms:
    the group takes SGD's plain step, ``lr * d``, while a scaled weight moves by about
    ``lr * eta`` of its own norm. Recipes exclude biases and norm parameters on purpose.

    With ``dampening``, :math:`lr\, r\, d` enters the buffer times ``1 - dampening``, except at a
    parameter's first update, which is undamped as in ``torch.optim.SGD`` and in mmpretrain's
    ``LARS``.

    Hyper-parameters are rounded to float32 first, always. float32, float16 and bfloat16 parameters
    are updated in float32 with a float32 buffer, float64 parameters in float64. Gradients are left
    as they are; ``step`` reads nothing back to the host.

    State: ``momentum_buffer`` per parameter, none where ``momentum`` is 0.

    Args:
        params (Iterable): Parameters, ``(name, parameter)`` pairs, or dicts of groups; a group may
            set each of the options below, and ``lars_exclude`` (bool, default False).
        lr (float): Learning rate, >= 0.
        momentum (float): Momentum factor in [0, 1). Defaults to 0.9.
        weight_decay (float): Weight decay (L2 penalty), >= 0. Defaults to 0.
        eta (float): The paper's trust coefficient, >= 0. Defaults to 1e-3.
        eps (float): Added to the denominator of the ratio, >= 0. Defaults to 1e-8.
        dampening (float): Dampening of the momentum in [0, 1). Defaults to 0.
        nesterov (bool): Whether to use Nesterov's momentum; needs a momentum and no dampening.
            Defaults to False.

    Raises:
        ValueError: If an option of the defaults or of a group is invalid.
        RuntimeError: In ``step``, if a gradient is sparse, or tensors of a parameter do not match.

    Examples:
        In a config:

        >>> optim_wrapper = dict(optimizer=dict(type='LARS', lr=1.0, weight_decay=5e-4))

        One step in Python, with a trust ratio of 0.003:

        >>> import torch
        >>> from mmdet_largebatch import LARS
        >>> weight = torch.full((2,), 3.0, requires_grad=True)
        >>> optimizer = LARS([weight], lr=1.0)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight.detach()
        tensor([2.9970, 2.9970])
    """

    state_keys = ('momentum_buffer',)
    marks = ('eta',)

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0,
        eta: float = 1e-3,
        eps: float = 1e-8,
        dampening: float = 0,
        nesterov: bool = False,
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            eta=eta,
            eps=eps,
            dampening=dampening,
            nesterov=nesterov,
            lars_exclude=False,
        )
        super().__init__(params, defaults)

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse invalid options.

        Args:
            options (dict[str, Any]): All options of a group.

        Raises:
            ValueError: At the first invalid one, in one line.
        """
        for name in ('lr', 'weight_decay', 'eta', 'eps'):
            check_non_negative(name, options[name])
        for name in ('momentum', 'dampening'):
            check_fraction(name, options[name])
        for name in ('nesterov', 'lars_exclude'):
            check_flag(name, options[name])
        if options['nesterov'] and not (options['momentum'] > 0 and options['dampening'] == 0):
            raise SettingError(
                f'Invalid nesterov=True with momentum={options["momentum"]!r} and '
                f'dampening={options["dampening"]!r}. '
                'Must be used with momentum > 0.0 and dampening=0.'
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient.

        Args:
            closure (Callable, optional): Evaluates the model again, with gradients enabled, and
                returns the loss. Defaults to None.

        Returns:
            Any: What the closure returned, or None.

        Raises:
            RuntimeError: If a gradient is sparse, or a parameter, its gradient and its state do not
                match; nothing is updated then.
        """
        loss = self._evaluate(closure)
        self._check_tensors()
        for group in self.param_groups:
            fused: dict[tuple[torch.device, bool], list[tuple[Tensor, Row]]] = {}
            with_momentum, nesterov = group['momentum'] != 0, group['nesterov']
            for p in trained(group):
                # Looked up once: a tensor's hash is computed in Python.
                state = self.state.get(p)
                buf = state.get('momentum_buffer') if state else None
                row = None if nesterov else _fused_row(p, buf, with_momentum)
                if row is None:
                    self._update(p, group)
                    continue
                if buf is None and row.buf is not None:
                    self.state[p]['momentum_buffer'] = row.buf.as_strided(p.shape, p.stride())
                fused.setdefault((p.device, buf is None), []).append((p, row))
            for (_, first), members in fused.items():
                self._update_fused(members, group, _scalars(group, first))
        return loss

    def _update_fused(
        self, members: list[tuple[Tensor, Row]], group: dict[str, Any], k: Scalars
    ) -> None:
        rows = [row for _, row in members]
        if group['lars_exclude']:
            update_excluded(rows, k)
            return
        update_norms = [] if self.observer is None else [_update_norm(row, k) for row in rows]
        numbers: Sequence[tuple[Tensor | float, Tensor | float]]
        if is_on_host(rows[0].w):
            numbers = [update_on_host(row, k) for row in rows]
        else:
            numbers = update_in_lists(rows, k)
        if self.observer is not None:
            for (p, _), of_p, norm in zip(members, numbers, update_norms, strict=True):
                self.observer(p, *of_p, norm)

    def _update(self, p: Trained, group: dict[str, Any]) -> None:
        dtype = arithmetic_dtype(p)
        w, g = p.to(dtype), p.grad.to(dtype)
        k = _scalars(group, first='momentum_buffer' not in self.state.get(p, {}))

        d = g.clone() if k.wd == 0 else g.add(w, alpha=k.wd)
        r: Tensor | float = 1.0
        if not group['lars_exclude']:
            p_norm, g_norm = l2_norm(w), l2_norm(g)
            r = trust_ratio(p_norm, g_norm, k)
            if self.observer is not None:
                self.observer(p, r, p_norm, l2_norm(d))
        d.mul_(k.lr * r)

        if k.momentum != 0:
            buf = self.state[p].setdefault('momentum_buffer', torch.zeros_like(d))
            buf.mul_(k.momentum).add_(d, alpha=k.share)
            d = d.add_(buf, alpha=k.momentum) if group['nesterov'] else buf
        p.copy_(w.sub_(d))


def _fused_row(p: Trained, buf: Tensor | None, with_momentum: bool) -> Row | None:
    """Return the tensors of a parameter for the fused kernel; None if it cannot take them."""
    tensors = (p, p.grad) if buf is None or not with_momentum else (p, p.grad, buf)
    if p.device.type not in FUSED_ON or any([x.dtype != torch.float32 for x in tensors]):
        return None
    flats = in_memory_order(*tensors)
    if flats is None:
        return None
    if len(flats) == 3:
        return Row(*flats)
    w, g = flats
    return Row(w, g, torch.zeros_like(w) if with_momentum else None)


def _scalars(group: dict[str, Any], first: bool) -> Scalars:
    names = ('lr', 'weight_decay', 'momentum', 'eta', 'eps')
    share = 1.0 if first else as_float32(1 - as_float32(group['dampening']))
    lr, wd, momentum, eta, eps = (as_float32(group[name]) for name in names)
    return Scalars(lr, wd, momentum, eta, eps, share)


def _update_norm(row: Row, k: Scalars) -> Tensor:
    return l2_norm(row.g.add(row.w, alpha=k.wd))
