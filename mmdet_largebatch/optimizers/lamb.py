"""LAMB with the numerics of NVIDIA Apex's ``FusedLAMB``, with or without Apex.

Paper: You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes,
https://arxiv.org/abs/1904.00962. Reference code: ``apex.optimizers.FusedLAMB``,
https://github.com/NVIDIA/apex. Unlike the paper, Apex clips the global gradient norm first, and
scales by the trust ratio only where weight decay is on, unless ``use_nvlamb``.

The mathematics is in :meth:`LAMB._update`; _cpu_kernels.py does the same to float32 tensors in
fewer passes over memory. apex_lamb.py runs Apex.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmdet.registry import OPTIMIZERS
from mmengine.logging import print_log
from torch import Tensor

from ..checks import (
    as_float32,
    check_betas,
    check_choice,
    check_flag,
    check_interval_or_none,
    check_non_negative,
    check_positive_or_none,
)
from ..errors import SettingError
from ._cpu_kernels import LambKernels
from .apex_lamb import MOMENTS, find_apex
from .base import LayerwiseOptimizer, trained
from .norms import global_norm, l2_norm
from .saved_state import Trained, arithmetic_dtype


@OPTIMIZERS.register_module()
class LAMB(LayerwiseOptimizer):
    r"""Layer-wise adaptive moments, equal to Apex's ``FusedLAMB`` to float32 rounding.

    With :math:`G` the L2 norm over all gradients of all groups together:

    1. :math:`g \leftarrow g / c`, where :math:`c = G / max\_grad\_norm` if
       :math:`G > max\_grad\_norm`, else 1.
    2. Without ``adam_w_mode``: :math:`g \leftarrow g + wd\, p`.
    3. :math:`m \leftarrow \beta_1 m + \beta_3 g` and
       :math:`v \leftarrow \beta_2 v + (1 - \beta_2) g^2`, where :math:`\beta_3 = 1 - \beta_1` with
       ``grad_averaging``, else 1.
    4. :math:`u = (m / bc_1) / (\sqrt{v / bc_2} + eps)`, where
       :math:`bc_i = 1 - \beta_i^{step}` with ``bias_correction``, else 1.
       With ``adam_w_mode``: :math:`u \leftarrow u + wd\, p`.
    5. Where ``weight_decay`` is not 0, or with ``use_nvlamb``: :math:`ratio = \|p\| / \|u\|` per
       tensor, 1 where either norm is exactly 0, then held within ``trust_clip``. Else
       :math:`ratio = 1`.
    6. :math:`p \leftarrow p - lr\, ratio\, u`.

    Hyper-parameters are rounded to float32 first, and :math:`1 - \beta` is taken from the rounded
    :math:`\beta`. float32, float16 and bfloat16 parameters are updated in float32 with float32
    moments, float64 parameters in float64.

    State, as in Apex: ``step`` per group, ``exp_avg`` and ``exp_avg_sq`` per parameter. Checkpoints
    move between the backends, and from and to Apex. As in Apex, ``step`` also counts updates in
    which a parameter has no gradient, so a late first gradient gets too little bias correction.

    Two backends give the same numbers to float32 rounding; ``running_backend`` and a log line name
    the one in use:

    - ``'torch'``: any device; gradients do not change. ``step`` reads nothing back to the host,
      unless parameters are on both a CPU and a GPU.
    - ``'apex'``: NVIDIA's fused kernels, for float32 parameters on one CUDA device. These
      overwrite ``p.grad``, which is therefore None after a step.

    Args:
        params (Iterable): Parameters, ``(name, parameter)`` pairs, or dicts of groups; a group may
            set each of the options below but ``max_grad_norm`` and ``backend``.
        lr (float): Learning rate, >= 0. Defaults to 1e-3.
        betas (tuple[float, float]): Decay rates of the two moments, in [0, 1).
            Defaults to (0.9, 0.999).
        eps (float): Added to the root in the denominator, >= 0. Defaults to 1e-6.
        weight_decay (float): Weight decay, >= 0. Defaults to 0.01.
        bias_correction (bool): Whether to correct the moments' bias to 0. Defaults to True.
        grad_averaging (bool): Whether a gradient enters the first moment times
            :math:`1 - \beta_1`. Defaults to True.
        adam_w_mode (bool): Whether weight decay is added to the update (True) or to the gradient
            (False). Defaults to True.
        max_grad_norm (float, optional): Global gradient norm above which gradients are clipped.
            Must be > 0; None switches it off. One for all groups, and not taken from a checkpoint.
            An optim wrapper with ``clip_grad`` clips a second time. Defaults to 1.0.
        use_nvlamb (bool): Whether tensors without weight decay are scaled by their trust ratio
            too. Defaults to False.
        trust_clip (tuple[float, float], optional): Lowest and highest trust ratio, which Apex does
            not have. Defaults to None.
        backend (str): 'torch', 'apex', or 'auto': Apex if it is installed and fits every group,
            else PyTorch. Chosen at construction, and again when groups are added, loaded or
            unpickled. Defaults to 'auto'.

    Raises:
        ValueError: If an option of the defaults or of a group is invalid, or ``backend='apex'``
            cannot be had.
        RuntimeError: In ``step``, if a gradient is sparse, or tensors of a parameter do not match.

    Examples:
        In a config:

        >>> optim_wrapper = dict(optimizer=dict(type='LAMB', lr=1e-3, weight_decay=1e-4))

        One step in Python, with a trust ratio of 3:

        >>> import torch
        >>> from mmdet_largebatch import LAMB
        >>> weight = torch.full((2,), 3.0, requires_grad=True)
        >>> optimizer = LAMB([weight], lr=0.1, weight_decay=0.0, use_nvlamb=True)
        >>> weight.sum().backward()
        >>> optimizer.step()
        >>> weight.detach()
        tensor([2.7000, 2.7000])
    """

    state_keys = MOMENTS
    marks = ('betas',)
    own_options = ('max_grad_norm',)
    counts_steps = True

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = True,
        grad_averaging: bool = True,
        adam_w_mode: bool = True,
        max_grad_norm: float | None = 1.0,
        use_nvlamb: bool = False,
        trust_clip: tuple[float, float] | None = None,
        backend: str = 'auto',
    ) -> None:
        check_choice('backend', backend, ('auto', 'apex', 'torch'))
        self.backend = backend
        self.running_backend: str | None = None
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            bias_correction=bias_correction,
            grad_averaging=grad_averaging,
            adam_w_mode=adam_w_mode,
            max_grad_norm=max_grad_norm,
            use_nvlamb=use_nvlamb,
            trust_clip=trust_clip,
        )
        super().__init__(params, defaults)
        self._choose_backend()

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse invalid options of a group."""
        for name in ('lr', 'eps', 'weight_decay'):
            check_non_negative(name, options[name])
        check_betas('betas', options['betas'])
        for name in ('bias_correction', 'grad_averaging', 'adam_w_mode', 'use_nvlamb'):
            check_flag(name, options[name])
        check_positive_or_none('max_grad_norm', options['max_grad_norm'])
        check_interval_or_none('trust_clip', options['trust_clip'])

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse a group that the optimizer, or the chosen backend, cannot train."""
        super().check_group(group)
        common = self.defaults['max_grad_norm']
        if group['max_grad_norm'] != common:
            raise SettingError(
                f'Invalid max_grad_norm={group["max_grad_norm"]!r} in a parameter group. '
                f'Must be {common!r} as for all groups: it bounds their gradients together.'
            )
        if self.running_backend is not None:
            self._choose_backend()

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
        max_grad_norm = self.defaults['max_grad_norm']
        if self._apex is not None:
            self._apex.step(self.param_groups, self.state, max_grad_norm, self.observer)
            return loss
        c = _clip_divisor([p for group in self.param_groups for p in trained(group)], max_grad_norm)
        for group in self.param_groups:
            group['step'] = group.get('step', 0) + 1
            hp = LambScalars(group)
            tensors = [(p, *self._moments(p)) for p in trained(group)]
            for p, m, v in self._kernels.update(tensors, hp, c, self.observer):
                self._update(p, m, v, hp, c)
        return loss

    def _moments(self, p: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[p]
        if 'exp_avg' not in state:
            for name in MOMENTS:
                state[name] = torch.zeros_like(p, dtype=arithmetic_dtype(p))
        return state['exp_avg'], state['exp_avg_sq']

    def _update(
        self, param: Trained, m: Tensor, v: Tensor, hp: LambScalars, c: Tensor | float | None
    ) -> None:
        """Update a tensor of any dtype and memory layout by the steps 1 to 6."""
        dtype = arithmetic_dtype(param)
        p, g = param.to(dtype), param.grad.to(dtype)

        if c is not None:
            g = g / (c.to(g.device) if isinstance(c, Tensor) else c)
        if hp.wd != 0 and not hp.adam_w_mode:
            g = g.add(p, alpha=hp.wd)

        m.mul_(hp.beta1).add_(g, alpha=hp.beta3)
        v.mul_(hp.beta2).addcmul_(g, g, value=hp.one_minus_beta2)

        u = (m / hp.bc1).div_((v / hp.bc2).sqrt_().add_(hp.eps))
        if hp.wd != 0 and hp.adam_w_mode:
            u.add_(p, alpha=hp.wd)

        ratio: Tensor | float = 1.0
        if hp.scaled:
            p_norm, u_norm = l2_norm(p), l2_norm(u)
            ratio = hp.trust_ratio(p_norm, u_norm)
            if self.observer is not None:
                self.observer(param, ratio, p_norm, u_norm)
        param.copy_(p.sub_(u.mul_(hp.lr * ratio)))

    def _choose_backend(self) -> None:
        """Choose the backend for the groups, and log the choice if it is a new one."""
        apex, reason = None, "backend='torch'"
        if self.backend != 'torch':
            apex, reason = find_apex(self.param_groups, required=self.backend == 'apex')
        running = 'torch' if apex is None else 'apex'
        if running != self.running_backend:
            name = {'torch': 'PyTorch', 'apex': "NVIDIA's Apex"}[running]
            print_log(f'LAMB runs on {name}: {reason}.', logger='current')
        self._apex, self._kernels, self.running_backend = apex, LambKernels(), running

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with the backend by name."""
        names = dict(backend=self.backend, running_backend=self.running_backend)
        return {**super().__getstate__(), **names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled or loaded state, and choose the backend for it."""
        super().__setstate__(state)
        self._choose_backend()


class LambScalars:
    """Hyper-parameters of a group for one update, each rounded to float32.

    Args:
        group (dict[str, Any]): The group; its ``step`` counts this update already.
    """

    def __init__(self, group: dict[str, Any]) -> None:
        self.lr, self.wd = as_float32(group['lr']), as_float32(group['weight_decay'])
        self.eps, self.adam_w_mode = as_float32(group['eps']), group['adam_w_mode']
        self.beta1, self.beta2 = map(as_float32, group['betas'])
        self.grad_averaging = group['grad_averaging']
        self.beta3 = as_float32(1 - self.beta1) if self.grad_averaging else 1.0
        # From the rounded beta2: 1 - 0.999 in double would put v off by 1e-5.
        self.one_minus_beta2 = as_float32(1 - self.beta2)
        # PyTorch's kernel corrects by the step; an infinite one does not correct.
        self.bias_correction_step, self.bc1, self.bc2 = math.inf, 1.0, 1.0
        if group['bias_correction']:
            self.bias_correction_step = float(group['step'])
            self.bc1 = as_float32(1 - self.beta1 ** group['step'])
            self.bc2 = as_float32(1 - self.beta2 ** group['step'])
        self.scaled = self.wd != 0 or group['use_nvlamb']
        clip = group['trust_clip']
        self.trust_clip = None if clip is None else (as_float32(clip[0]), as_float32(clip[1]))

    def trust_ratio(self, p_norm: Tensor, u_norm: Tensor) -> Tensor:
        """Return the ratios of step 5 for norms of any shape; a NaN norm makes its ratio NaN."""
        ratio = (p_norm / u_norm).masked_fill_((p_norm == 0) | (u_norm == 0), 1.0)
        return ratio if self.trust_clip is None else ratio.clamp_(*self.trust_clip)


def _clip_divisor(params: list[Trained], max_grad_norm: float | None) -> Tensor | float | None:
    """Return the divisor c of step 1: a number if all is on a CPU, None if there is no clip."""
    if max_grad_norm is None or not params:
        return None
    bound = as_float32(max_grad_norm)
    grads = [p.grad for p in params]
    if any([g.dtype != torch.float32 for g in grads]):
        grads = [g.to(arithmetic_dtype(p)) for p, g in zip(params, grads, strict=True)]
    G = global_norm(grads)
    if isinstance(G, float):
        return G / bound if G > bound else 1.0
    return (G / bound).masked_fill_((G > bound).logical_not(), 1.0)
