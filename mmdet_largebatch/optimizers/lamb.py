"""LAMB with the numerics of NVIDIA Apex's ``FusedLAMB``, with or without Apex.

Paper: You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes,
https://arxiv.org/abs/1904.00962. Reference code: ``apex.optimizers.FusedLAMB``,
https://github.com/NVIDIA/apex. That departs from the paper in clipping the global gradient norm
first, and in scaling by the trust ratio only where weight decay is on, unless ``use_nvlamb``.

Here are the options and the choice of a backend; torch_lamb.py and apex_lamb.py are the backends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmdet.registry import OPTIMIZERS
from mmengine.logging import print_log

from ..checks import (
    check_betas,
    check_choice,
    check_flag,
    check_interval_or_none,
    check_non_negative,
    check_positive_or_none,
)
from ..errors import SettingError
from .apex_lamb import MOMENTS, ApexLAMB, ApexUnfit
from .base import LayerwiseOptimizer
from .torch_lamb import TorchLAMB

BACKENDS = ('auto', 'apex', 'torch')


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

    Hyper-parameters are rounded to float32 first, always, and :math:`1 - \beta` is taken from the
    rounded :math:`\beta`. float32, float16 and bfloat16 parameters are updated in float32 with
    float32 moments, float64 parameters in float64.

    State, as Apex lays it out: ``step`` in the group, ``exp_avg`` and ``exp_avg_sq`` per parameter;
    a checkpoint moves between the backends, and from and to Apex, both ways. As in Apex the
    group's ``step`` advances also for its parameters without a gradient, so one that gets its
    first gradient late is corrected for less bias than it has.

    Two backends give the same numbers to float32 rounding. ``running_backend`` says which one runs,
    and so does one line in the log.

    - ``'torch'`` takes any device and leaves gradients as they are. ``step`` reads nothing back to
      the host, unless parameters are spread over a CPU and a GPU.
    - ``'apex'`` is NVIDIA's fused kernels, for float32 parameters on one CUDA device. These leave
      the update in ``p.grad``; it is therefore None after a step.

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
        check_choice('backend', backend, BACKENDS)
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
        """Refuse invalid options.

        Args:
            options (dict[str, Any]): All options of a group.

        Raises:
            ValueError: At the first invalid one, in one line.
        """
        for name in ('lr', 'eps', 'weight_decay'):
            check_non_negative(name, options[name])
        check_betas('betas', options['betas'])
        for name in ('bias_correction', 'grad_averaging', 'adam_w_mode', 'use_nvlamb'):
            check_flag(name, options[name])
        check_positive_or_none('max_grad_norm', options['max_grad_norm'])
        check_interval_or_none('trust_clip', options['trust_clip'])

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse a group that the optimizer, or the backend it was told to use, cannot train.

        Args:
            group (dict[str, Any]): The group that was added last.

        Raises:
            ValueError: If an option or a parameter's dtype is invalid.
        """
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
        max_grad_norm = self.defaults['max_grad_norm']
        self._backend.step(self.param_groups, self.state, max_grad_norm, self.observer)
        return loss

    def _choose_backend(self) -> None:
        """Take the backend that was asked for; the log tells which, unless it runs already."""
        backend: TorchLAMB | ApexLAMB = TorchLAMB()
        running, reason = 'torch', "backend='torch'"
        if self.backend != 'torch':
            try:
                backend = ApexLAMB(self.param_groups)
                running, reason = 'apex', 'it is installed and fits every parameter group'
            except ApexUnfit as unfit:
                if self.backend == 'apex':
                    raise SettingError(
                        f"Invalid backend='apex'. Must be 'auto' or 'torch' here: {unfit}."
                    ) from unfit
                reason = str(unfit)
        if running != self.running_backend:
            name = {'torch': 'PyTorch', 'apex': "NVIDIA's Apex"}[running]
            print_log(f'LAMB runs on {name}: {reason}.', logger='current')
        self._backend, self.running_backend = backend, running

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with the backend by name.

        Returns:
            dict[str, Any]: The attributes for ``__setstate__``.
        """
        names = dict(backend=self.backend, running_backend=self.running_backend)
        return {**super().__getstate__(), **names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickled or loaded state, and choose the backend for it.

        Args:
            state (dict[str, Any]): The attributes to take over. Groups may lack an option, as
                Apex's do, and their ``step`` may be a float or a tensor.
        """
        super().__setstate__(state)
        for group in self.param_groups:
            group['max_grad_norm'] = self.defaults['max_grad_norm']
            if 'step' in group:
                group['step'] = int(group['step'])
        self._choose_backend()


def double_clip_message(optim_wrapper: Any) -> str | None:
    """Return a warning if both LAMB and its optim wrapper clip gradients.

    Args:
        optim_wrapper (OptimWrapper): MMEngine's wrapper of the optimizer.

    Returns:
        str or None: One line that says what to change, or None if at most one of them clips.
    """
    optimizer = getattr(optim_wrapper, 'optimizer', None)
    clip_grad = getattr(optim_wrapper, 'clip_grad_kwargs', None)
    if not clip_grad or not isinstance(optimizer, LAMB):
        return None
    max_grad_norm = optimizer.defaults['max_grad_norm']
    if max_grad_norm in (None, math.inf):
        return None
    return (
        f'Every update clips twice: the optim wrapper by clip_grad={clip_grad}, then LAMB by '
        f'max_grad_norm={max_grad_norm}. Set max_grad_norm=None or drop clip_grad.'
    )
