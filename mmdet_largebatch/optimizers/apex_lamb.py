"""LAMB on NVIDIA Apex's ``FusedLAMB`` (https://github.com/NVIDIA/apex): finding it and running it.

NVIDIA's Apex is built from its source, with its CUDA extension ``amp_C``. The package ``apex`` on
the Python index is a web-framework toolkit and has nothing to do with it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError
from .base import Observer, trained
from .saved_state import Trained, describe

MOMENTS = ('exp_avg', 'exp_avg_sq')


class ApexUnfit(Exception):
    """Why Apex cannot be used; its text is one line without a full stop."""


class ApexLAMB:
    """Runs ``FusedLAMB`` on the groups and the state of another optimizer.

    An inner ``FusedLAMB`` is handed these at every step, so that there is one state, one
    ``state_dict`` and one learning rate. What Apex would get wrong is put right first: it drops
    work where a tensor is empty, and pairs elements wrongly where a gradient or a moment is
    laid out in memory in another way than its parameter.

    Args:
        param_groups (list[dict]): The groups of our ``LAMB``.

    Raises:
        ApexUnfit: If Apex is not there, or cannot do what the groups ask.
    """

    def __init__(self, param_groups: list[dict[str, Any]]) -> None:
        fused_lamb = find_fused_lamb()
        check_groups(param_groups)
        first = param_groups[0]
        p = next(p for group in param_groups for p in group['params'])
        try:
            self._inner = fused_lamb(
                [p], adam_w_mode=first['adam_w_mode'], use_nvlamb=first['use_nvlamb']
            )
        except Exception as error:
            raise ApexUnfit(f'its FusedLAMB could not be made ({_one_line(error)})') from error

    def step(
        self,
        param_groups: list[dict[str, Any]],
        state: dict[Tensor, dict[str, Any]],
        max_grad_norm: float | None,
        observer: Observer | None = None,
    ) -> None:
        """Make one update; gradients are None afterwards, since Apex writes the update there.

        Args:
            param_groups (list[dict]): The groups; their ``step`` advances.
            state (dict[Tensor, dict]): The moments per parameter, changed in place.
            max_grad_norm (float, optional): Where to clip the global gradient norm.
            observer (Callable, optional): Told of the trust ratios. Defaults to None.
        """
        shared = []
        for group in param_groups:
            params = trained(group)
            for p in params:
                _match_layouts(p, state.get(p, {}))
            if params:
                shared.append({**group, 'params': params})
        if shared:
            self._inner.param_groups, self._inner.state = shared, state
            self._inner.defaults['max_grad_norm'] = (
                math.inf if max_grad_norm is None else max_grad_norm
            )
            p_norms = {} if observer is None else _norms_of_scaled(shared)
            self._inner.step()
            if observer is not None:
                for p, p_norm in p_norms.items():
                    u_norm = torch.linalg.vector_norm(p.grad)
                    ratio = (p_norm / u_norm).masked_fill_((p_norm == 0) | (u_norm == 0), 1.0)
                    observer(p, ratio, p_norm, u_norm)
        for group in param_groups:
            group['step'] = group.get('step', 0) + 1
        for group in shared:
            for p in group['params']:
                p.grad = None


def find_apex(param_groups: list[dict[str, Any]], required: bool) -> tuple[ApexLAMB | None, str]:
    """Return Apex on these groups if possible, and the reason for either outcome.

    Args:
        param_groups (list[dict]): The groups of our ``LAMB``.
        required (bool): Refuse to go on without Apex.

    Returns:
        tuple[ApexLAMB or None, str]: The backend and a reason for the log.

    Raises:
        SettingError: If Apex is required and cannot be used.
    """
    try:
        return ApexLAMB(param_groups), 'it is installed and fits every parameter group'
    except ApexUnfit as unfit:
        if required:
            raise SettingError(
                f"Invalid backend='apex'. Must be 'auto' or 'torch' here: {unfit}."
            ) from unfit
        return None, str(unfit)


def _norms_of_scaled(groups: list[dict[str, Any]]) -> dict[Trained, Tensor]:
    """||p|| of the parameters that Apex scales by a trust ratio."""
    return {
        p: torch.linalg.vector_norm(p.detach())
        for group in groups
        if group['weight_decay'] != 0 or group['use_nvlamb']
        for p in group['params']
    }


def find_fused_lamb() -> type:
    """Import NVIDIA's ``FusedLAMB``.

    Returns:
        type: ``apex.optimizers.FusedLAMB``.

    Raises:
        ApexUnfit: If there is no such class, or the CUDA extension that it needs is missing.
    """
    try:
        import apex  # noqa: F401
        from apex.optimizers import FusedLAMB
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == 'apex':
            raise ApexUnfit("NVIDIA's Apex is not installed (see docs/install.md)") from error
        raise ApexUnfit(
            "the installed package 'apex' is not NVIDIA's, or is broken: it has no "
            f'apex.optimizers.FusedLAMB ({_one_line(error)}). The one of that name on the Python '
            "index is a web-framework toolkit; see docs/install.md for NVIDIA's"
        ) from error
    try:
        import amp_C  # noqa: F401
    except Exception as error:
        raise ApexUnfit(
            "NVIDIA's Apex is installed without a working CUDA extension amp_C "
            f'({_one_line(error)}; see docs/install.md)'
        ) from error
    return FusedLAMB


def check_groups(param_groups: list[dict[str, Any]]) -> None:
    """Refuse what ``FusedLAMB`` cannot do, or would do otherwise than our ``LAMB``.

    Args:
        param_groups (list[dict]): The groups of our ``LAMB``.

    Raises:
        ApexUnfit: At the first such thing.
    """
    device = None
    for index, group in enumerate(param_groups):
        if group['trust_clip'] is not None:
            raise ApexUnfit(f'Apex has no trust_clip, and group {index} sets it')
        for name in ('adam_w_mode', 'use_nvlamb'):
            if group[name] != param_groups[0][name]:
                raise ApexUnfit(f'Apex has one {name} for all groups, and group {index} differs')
        for position, p in enumerate(group['params']):
            device = device or p.device
            fault = _fault(p, device)
            if fault is not None:
                raise ApexUnfit(f'{fault} ({describe(param_groups, index, position)})')
    if device is None:
        raise ApexUnfit('there is no parameter yet')


def is_on_gpu(p: Tensor) -> bool:
    """Return True if Apex's kernels can address a tensor.

    Args:
        p (Tensor): A parameter.

    Returns:
        bool: True on CUDA.
    """
    return p.is_cuda


def _fault(p: Tensor, device: torch.device) -> str | None:
    """Return the reason why Apex cannot take a parameter."""
    if not is_on_gpu(p):
        return f'Apex needs CUDA parameters, and one is on {p.device}'
    if p.device != device:
        return f'Apex needs all parameters on one device, and one is on {p.device} not {device}'
    if p.dtype != torch.float32:
        return f'Apex keeps float32 moments for float32 parameters only, and one is {p.dtype}'
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if not p.is_contiguous() and not (
        p.dim() in formats and p.is_contiguous(memory_format=formats[p.dim()])
    ):
        return 'Apex needs contiguous or channels_last parameters, and one is neither'
    return None


def _match_layouts(p: Trained, moments: dict[str, Tensor]) -> None:
    """Lay a gradient and moments out in memory as their parameter is."""
    if not _same_layout(p.grad, p):
        p.grad = torch.empty_like(p).copy_(p.grad)
    for name in MOMENTS:
        if name in moments and not _same_layout(moments[name], p):
            moments[name] = torch.empty_like(p).copy_(moments[name])


def _same_layout(x: Tensor, p: Tensor) -> bool:
    # The stride of a dimension of size 1 is never used, and PyTorch leaves it arbitrary.
    strides = zip(p.shape, x.stride(), p.stride(), strict=True)
    return x.dtype == p.dtype and all(size == 1 or a == b for size, a, b in strides)


def _one_line(error: Exception) -> str:
    return ' '.join(str(error).split()) or type(error).__name__
