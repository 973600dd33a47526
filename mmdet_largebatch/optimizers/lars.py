"""LARS: SGD with momentum whose step is scaled per tensor by the norms of weight and gradient.

Paper: You, Gitman and Ginsburg, Large Batch Training of Convolutional Networks,
https://arxiv.org/abs/1708.03888, Algorithm 1. mmpretrain's ``LARS`` gives the same numbers, but
reads two norms per parameter back to the host; this one reads none. timm's ``Lars`` and Apex's
``LARC`` apply the learning rate outside the momentum buffer: equal only while it is constant.

The mathematics is in :meth:`LARS._update`; _cpu_kernels.py does the same to float32 tensors in
fewer passes over memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmdet.registry import OPTIMIZERS
from torch import Tensor

from ..checks import as_float32, check_flag, check_fraction, check_non_negative
from ..errors import SettingError
from ._cpu_kernels import update_lars
from .base import LayerwiseOptimizer, trained
from .norms import l2_norm
from .saved_state import Trained, arithmetic_dtype


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

    A group with ``lars_exclude=True`` (mmpretrain's name) gets :math:`r = 1` and takes SGD's plain
    step, ``lr * d``. A scaled weight moves by about ``lr * eta`` of its own norm: at the default
    ``eta``, :math:`r` is 1,000 times smaller where weight and gradient have equal norms. Recipes
    exclude biases and norm parameters on purpose.

    With ``dampening``, :math:`lr\, r\, d` enters the buffer times ``1 - dampening``, except at a
    parameter's first update, which is undamped as in ``torch.optim.SGD`` and in mmpretrain's
    ``LARS``.

    Hyper-parameters are rounded to float32 first. float32, float16 and bfloat16 parameters are
    updated in float32 with a float32 buffer, float64 parameters in float64. Gradients do not
    change.

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
        """Refuse invalid options of a group."""
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
        """Update the parameters that have a gradient; nothing is read back from a GPU.

        Args:
            closure (Callable, optional): Evaluates the model again, with gradients enabled, and
                returns the loss. Defaults to None.

        Returns:
            Any: The closure's loss, or None.

        Raises:
            RuntimeError: If a gradient is sparse, or a parameter, its gradient and its state do not
                match; nothing is updated then.
        """
        loss = self._evaluate(closure)
        self._check_tensors()
        for group in self.param_groups:
            first: list[tuple[Trained, Tensor | None]] = []
            later: list[tuple[Trained, Tensor | None]] = []
            for p in trained(group):
                if group['momentum'] == 0:
                    later.append((p, None))
                    continue
                state = self.state[p]
                tensors = later if 'momentum_buffer' in state else first
                if tensors is first:
                    state['momentum_buffer'] = torch.zeros_like(p, dtype=arithmetic_dtype(p))
                tensors.append((p, state['momentum_buffer']))
            for tensors in (first, later):
                hp = LarsScalars(group, tensors is first)
                for p, buf in update_lars(tensors, hp, self.observer):
                    self._update(p, buf, hp)
        return loss

    def _update(self, param: Trained, buf: Tensor | None, hp: LarsScalars) -> None:
        """Update a tensor of any dtype and memory layout."""
        dtype = arithmetic_dtype(param)
        p, g = param.to(dtype), param.grad.to(dtype)

        d = g.clone() if hp.wd == 0 else g.add(p, alpha=hp.wd)
        r: Tensor | float = 1.0
        if not hp.excluded:
            p_norm, g_norm = l2_norm(p), l2_norm(g)
            r = hp.trust_ratio(p_norm, g_norm)
            if self.observer is not None:
                self.observer(param, r, p_norm, l2_norm(d))
        d.mul_(hp.lr * r)

        if buf is not None:
            buf.mul_(hp.momentum).add_(d, alpha=hp.grad_weight)
            d = d.add_(buf, alpha=hp.momentum) if hp.nesterov else buf
        param.copy_(p.sub_(d))


class LarsScalars:
    """Hyper-parameters of a group for one update, each rounded to float32.

    Args:
        group (dict[str, Any]): The group.
        first (bool): True at a parameter's first update, which is undamped.
    """

    def __init__(self, group: dict[str, Any], first: bool) -> None:
        self.lr, self.wd = as_float32(group['lr']), as_float32(group['weight_decay'])
        self.momentum, self.nesterov = as_float32(group['momentum']), group['nesterov']
        self.eta, self.eps = as_float32(group['eta']), as_float32(group['eps'])
        # The factor of a gradient that enters the buffer.
        self.grad_weight = 1.0 if first else as_float32(1 - as_float32(group['dampening']))
        self.excluded = group['lars_exclude']

    def trust_ratio(self, p_norm: Tensor, g_norm: Tensor) -> Tensor:
        """Return the ratios r for norms of any shape: 1 where a norm is 0."""
        r = self.eta * p_norm / (g_norm + self.wd * p_norm + self.eps)
        return r.masked_fill_((p_norm == 0) | (g_norm == 0), 1.0)
