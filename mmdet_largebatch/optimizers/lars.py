"""LARS: SGD with momentum whose step is scaled per tensor by the norms of weight and gradient.

Paper: You, Gitman and Ginsburg, Large Batch Training of Convolutional Networks,
https://arxiv.org/abs/1708.03888, Algorithm 1. mmpretrain's ``LARS`` gives the same numbers, reading
two norms a parameter back to the host; this one reads none. timm's ``Lars`` and Apex's ``LARC``
apply the learning rate outside the momentum buffer: equal only while it is constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmdet.registry import OPTIMIZERS
from torch import Tensor

from ..errors import SettingError
from .base import LayerwiseOptimizer, trained
from .checks import as_float32, check_flag, check_fraction, check_non_negative
from .tensors import arithmetic_dtype, l2_norm


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
        RuntimeError: In ``step``, if a gradient is sparse.

    Examples:
        >>> optimizer = LARS(model.parameters(), lr=1.0, weight_decay=5e-4)
        >>> optim_wrapper = dict(optimizer=dict(type='LARS', lr=1.0, weight_decay=5e-4))
    """

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
            RuntimeError: If a gradient is sparse; nothing is updated then.
        """
        loss = self._evaluate(closure)
        self._refuse_sparse_gradients()
        for group in self.param_groups:
            for p in trained(group):
                self._update(p, group)
        return loss

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        lr = as_float32(group['lr'])
        momentum = as_float32(group['momentum'])
        wd = as_float32(group['weight_decay'])
        dtype = arithmetic_dtype(p)
        w, g = p.to(dtype), p.grad.to(dtype)

        d = lr * g.add(w, alpha=wd)
        if not group['lars_exclude']:
            d.mul_(_trust_ratio(w, g, wd, as_float32(group['eta']), as_float32(group['eps'])))

        if momentum != 0:
            state = self.state[p]
            if 'momentum_buffer' not in state:
                buf = state['momentum_buffer'] = d.clone()
            else:
                undamped = as_float32(1 - as_float32(group['dampening']))
                buf = state['momentum_buffer'].mul_(momentum).add_(d, alpha=undamped)
            d = d.add_(buf, alpha=momentum) if group['nesterov'] else buf
        p.copy_(w.sub_(d))


def _trust_ratio(w: Tensor, g: Tensor, wd: float, eta: float, eps: float) -> Tensor:
    """The paper's local learning rate of one tensor, 0-d and still on its device."""
    p_norm, g_norm = l2_norm(w), l2_norm(g)
    r = eta * p_norm / (g_norm + wd * p_norm + eps)
    return r.masked_fill_((p_norm == 0) | (g_norm == 0), 1.0)
