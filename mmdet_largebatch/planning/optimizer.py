"""Describe the optimizer of a planned training: parameter groups, backend and memory."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from ..checks import invalid
from ..optimizers.apex_lamb import ApexUnfit, check_groups, find_fused_lamb

# Group keys that are not hyper-parameters, or are part of lr and weight_decay already.
NOT_OPTIONS = {
    *('params', 'param_names', 'group_name', 'step', 'lr_mult', 'decay_mult'),
    *('initial_lr', 'max_lr', 'min_lr'),
}


@dataclass
class GroupSetting:
    """Parameter groups with the same options.

    Args:
        options (dict[str, Any]): ``lr`` (after the warmup), ``weight_decay``, and options that
            differ between groups.
        groups (int): Number of groups.
        tensors (int): Number of trained tensors.
        parameters (int): Number of their elements.
    """

    options: dict[str, Any]
    groups: int = 0
    tensors: int = 0
    parameters: int = 0


@dataclass
class Backend:
    """The backend of LAMB.

    Args:
        here (str, optional): ``'apex'`` or ``'torch'`` on this machine, None if refused.
        here_reason (str): The reason.
        on_gpu (str): The backend on a GPU with NVIDIA's Apex installed.
        on_gpu_reason (str): The reason.
    """

    here: str | None
    here_reason: str
    on_gpu: str
    on_gpu_reason: str


def trainable(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters that get gradients; MMEngine may hand over frozen ones too."""
    return [p for group in optimizer.param_groups for p in group['params'] if p.requires_grad]


def group_settings(optimizer: Optimizer) -> list[GroupSetting]:
    """Return the distinct options of the trained parameter groups, most parameters first."""
    groups = [
        # OneCycleLR sets max_lr, whatever the optimizer's LR is, and begins below it.
        dict(group, lr=group.get('max_lr', group.get('initial_lr', group['lr'])))
        for group in optimizer.param_groups
        if any(p.requires_grad for p in group['params'])
    ]
    names = {name for group in groups for name in group} - NOT_OPTIONS
    differ = {name for name in names if len({repr(group.get(name)) for group in groups}) > 1}
    shown = ['lr', 'weight_decay', *sorted(differ - {'lr', 'weight_decay'})]
    found: dict[str, GroupSetting] = {}
    for group in groups:
        options = {name: group.get(name) for name in shown if name in names}
        setting = found.setdefault(repr(options), GroupSetting(options))
        params = [p for p in group['params'] if p.requires_grad]
        setting.groups += 1
        setting.tensors += len(params)
        setting.parameters += sum(p.numel() for p in params)
    return sorted(found.values(), key=lambda setting: -setting.parameters)


def state_bytes(optimizer: Optimizer) -> int | None:
    """Make a first step and return the bytes of the optimizer's state.

    On the meta device, where the model of a plan is, the step computes nothing.

    Args:
        optimizer (Optimizer): The optimizer, not to be used afterwards.

    Returns:
        int, optional: The bytes, None if the optimizer cannot step on the meta device.
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
        SettingError: If ``'apex'`` is asked for and runs on no machine.
    """
    if asked == 'torch':
        return Backend('torch', "backend='torch'", 'torch', "backend='torch'")
    with FakeTensorMode(allow_non_fake_inputs=True):
        groups = [
            dict(group, params=[torch.empty_like(p, device='cuda') for p in group['params']])
            for group in optimizer.param_groups
        ]
    try:
        check_groups(groups)
    except ApexUnfit as unfit:
        if asked == 'apex':
            wanted = f"'auto' or 'torch': {unfit}"
            raise invalid('optim_wrapper.optimizer.backend', asked, wanted) from unfit
        return Backend('torch', str(unfit), 'torch', str(unfit))
    fits = 'it fits every parameter group'
    try:
        if not torch.cuda.is_available():
            raise ApexUnfit('no GPU is visible')
        find_fused_lamb()
    except ApexUnfit as missing:
        return Backend('torch' if asked == 'auto' else None, str(missing), 'apex', fits)
    return Backend('apex', fits, 'apex', fits)
