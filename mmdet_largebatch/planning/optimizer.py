"""Describe the optimizer of a planned training: groups, backend and memory."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from ..errors import SettingError
from ..optimizers.apex_lamb import ApexUnfit, check_groups, find_fused_lamb

# Of a group: what it is made of, how it is called, and what is in its lr and weight_decay already.
NOT_OPTIONS = {'params', 'param_names', 'group_name', 'initial_lr', 'step', 'lr_mult', 'decay_mult'}


@dataclass
class GroupSetting:
    """Parameter groups with the same options.

    Args:
        options (dict[str, Any]): ``lr`` (after the warmup), ``weight_decay``, and whatever else
            differs from one group to another.
        groups (int): Number of groups.
        tensors (int): Number of tensors that are trained.
        parameters (int): Number of their elements.
    """

    options: dict[str, Any]
    groups: int
    tensors: int
    parameters: int


@dataclass
class Backend:
    """The backend of LAMB.

    Args:
        here (str, optional): ``'apex'`` or ``'torch'`` on this machine, None if it would be
            refused.
        here_reason (str): Why.
        on_gpu (str): The same on a GPU with NVIDIA's Apex installed.
        on_gpu_reason (str): Why.
    """

    here: str | None
    here_reason: str
    on_gpu: str
    on_gpu_reason: str


def trainable(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters that get gradients.

    Args:
        optimizer (Optimizer): The optimizer; MMEngine may hand it frozen parameters too.

    Returns:
        list[Tensor]: The trained ones, in the optimizer's order.
    """
    return [p for group in optimizer.param_groups for p in group['params'] if p.requires_grad]


def group_settings(optimizer: Optimizer) -> list[GroupSetting]:
    """Return the distinct settings of the parameter groups, most parameters first.

    Args:
        optimizer (Optimizer): The optimizer.

    Returns:
        list[GroupSetting]: The settings; groups that train nothing are left out.
    """
    groups = [dict(group, lr=group.get('initial_lr', group['lr'])) for group in _trained(optimizer)]
    names = {name for group in groups for name in group} - NOT_OPTIONS
    differ = {name for name in names if len({repr(group.get(name)) for group in groups}) > 1}
    shown = ['lr', 'weight_decay', *sorted(differ - {'lr', 'weight_decay'})]
    found: dict[str, GroupSetting] = {}
    for group in groups:
        options = {name: group.get(name) for name in shown if name in names}
        setting = found.setdefault(repr(options), GroupSetting(options, 0, 0, 0))
        params = [p for p in group['params'] if p.requires_grad]
        setting.groups += 1
        setting.tensors += len(params)
        setting.parameters += sum(p.numel() for p in params)
    return sorted(found.values(), key=lambda setting: -setting.parameters)


def state_bytes(optimizer: Optimizer) -> int | None:
    """Memory of the optimizer's state after a first step, by making that step.

    On the meta device, where a planned model is, it computes nothing.

    Args:
        optimizer (Optimizer): The optimizer, which is not used for anything afterwards.

    Returns:
        int or None: The bytes, None if the optimizer cannot step on the meta device.
    """
    for p in trainable(optimizer):
        p.grad = torch.zeros_like(p)
    try:
        optimizer.step()
    except (NotImplementedError, RuntimeError):
        return None
    tensors = [x for state in optimizer.state.values() for x in state.values()]
    return sum(x.numel() * x.element_size() for x in tensors if isinstance(x, Tensor))


def lamb_backend(optimizer: Optimizer, asked: str) -> Backend:
    """Return the backend of a LAMB, on this machine and on a GPU.

    Args:
        optimizer (LAMB): The optimizer.
        asked (str): Its ``backend`` in the config: ``'auto'``, ``'apex'`` or ``'torch'``.

    Returns:
        Backend: The backends and the reasons.

    Raises:
        SettingError: If ``'apex'`` is asked for and cannot be had on any machine.
    """
    if asked == 'torch':
        return Backend('torch', "backend='torch'", 'torch', "backend='torch'")
    unfit = _unfit_on_gpu(optimizer)
    if unfit is not None:
        if asked == 'apex':
            raise SettingError(
                f"optim_wrapper.optimizer.backend='apex'. Must be 'auto' or 'torch': {unfit}."
            )
        return Backend('torch', unfit, 'torch', unfit)
    missing = None if torch.cuda.is_available() else 'no GPU is visible'
    if missing is None:
        try:
            find_fused_lamb()
        except ApexUnfit as error:
            missing = str(error)
    fits = 'it fits every parameter group'
    if missing is None:
        return Backend('apex', fits, 'apex', fits)
    here = 'torch' if asked == 'auto' else None
    return Backend(here, missing, 'apex', fits)


def _trained(optimizer: Optimizer) -> list[dict[str, Any]]:
    groups = optimizer.param_groups
    return [group for group in groups if any(p.requires_grad for p in group['params'])]


def _unfit_on_gpu(optimizer: Optimizer) -> str | None:
    """Why Apex could not run these groups on a GPU, judged on tensors that are there in name."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        groups = [
            dict(group, params=[torch.empty_like(p, device='cuda') for p in group['params']])
            for group in optimizer.param_groups
        ]
    try:
        check_groups(groups)
    except ApexUnfit as unfit:
        return str(unfit)
    return None
