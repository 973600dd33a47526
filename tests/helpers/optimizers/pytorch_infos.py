"""LAMB and LARS described in the terms in which PyTorch describes its optimizers to its own tests.

Neither takes a tensor as learning rate, complex parameters or sparse gradients, and neither has
PyTorch's ``foreach``, ``fused``, ``differentiable``, ``capturable`` or ``maximize``.

Below the descriptions stands what the checks share.
"""

from unittest import mock

import hypothesis
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mmdet_largebatch.optimizers import LAMB, LARS

from .groups import parameters, set_gradients

profile = hypothesis.settings.get_current_profile_name()
# The import would freeze the flags of torch.backends and choose a profile of hypothesis, for the
# tests of all files that run in the same process.
with mock.patch('torch.backends.disable_global_flags'):
    from torch.testing._internal.common_optimizers import (
        ErrorOptimizerInput,
        OptimizerInfo,
        OptimizerInput,
        get_error_inputs_for_all_optims,
        optim_db,
    )
    from torch.testing._internal.common_utils import set_default_dtype  # noqa: F401
hypothesis.settings.load_profile(profile)

# What LAMB takes for all groups together, and no group for itself.
OF_ALL_GROUPS = {LAMB: {'backend': 'torch'}, LARS: {}}
INPUTS = {
    LAMB: [
        {},
        {'lr': 0.01},
        {'weight_decay': 0.0},
        {'weight_decay': 0.9},
        {'weight_decay': 0.1, 'adam_w_mode': False},
        {'betas': (0.8, 0.99), 'eps': 1e-3},
        {'bias_correction': False},
        {'grad_averaging': False},
        {'max_grad_norm': None},
        {'weight_decay': 0.0, 'use_nvlamb': True},
        {'trust_clip': (0.1, 2.0)},
    ],
    LARS: [
        {'lr': 1.0},
        {'lr': 0.5, 'weight_decay': 0.1},
        {'lr': 5.0, 'momentum': 0.0},
        {'lr': 5.0, 'momentum': 0.0, 'weight_decay': 0.1},
        {'lr': 1.0, 'dampening': 0.5},
        {'lr': 1.0, 'nesterov': True, 'weight_decay': 0.1},
        {'lr': 0.1, 'eta': 0.02, 'eps': 0.1},
    ],
}
# Options that checkpoints of Apex's FusedLAMB, and of a LARS that excludes no groups, lack.
ADDED = {LAMB: ('adam_w_mode', 'use_nvlamb', 'trust_clip'), LARS: ('lars_exclude',)}


def inputs_of(kind):
    def inputs(device, dtype=None):
        common = OF_ALL_GROUPS[kind]
        return [OptimizerInput(None, common | kwargs, label(kwargs)) for kwargs in INPUTS[kind]]

    return inputs


def label(kwargs):
    return ', '.join(f'{name}={value}' for name, value in kwargs.items()) or 'defaults'


def error_inputs_of(kind):
    """PyTorch's errors for all optimizers; ours of each option are in test_checks.py."""

    def error_inputs(device, dtype):
        scalar = OptimizerInput(None, {'lr': torch.tensor(0.1)}, 'Tensor lr is not supported')
        errors = get_error_inputs_for_all_optims(device, dtype)
        errors.append(ErrorOptimizerInput(scalar, error_type=ValueError))
        for error in errors:
            case = error.optimizer_error_input
            case.kwargs = {'lr': 0.1} | OF_ALL_GROUPS[kind] | case.kwargs
            if isinstance(case.kwargs['lr'], torch.Tensor):  # Refused whatever its size.
                error.error_regex = r'^Invalid lr=tensor\(.+\)\. Must be a number\.$'
        return errors

    return error_inputs


INFOS = [
    OptimizerInfo(
        kind,
        optim_inputs_func=inputs_of(kind),
        optim_error_inputs_func=error_inputs_of(kind),
        # Those of PyTorch's SGD: every kind of scheduler that its checks of optimizers use.
        scheduler_inputs=next(info.scheduler_inputs for info in optim_db if info.name == 'SGD'),
        supported_impls=(),
        supports_fused_on=(),
        not_og_supported_flags=ADDED[kind],
        supports_sparse=False,
        supports_complex=False,
    )
    for kind in (LAMB, LARS)
]

# Every test's name tells the optimizer and its options.
every_input = pytest.mark.parametrize(
    ('info', 'kwargs'),
    [
        pytest.param(info, case.kwargs, id=f'{info.name}({case.desc})')
        for info in INFOS
        for case in info.optim_inputs_func('cpu')
    ],
)
every_error = pytest.mark.parametrize(
    ('info', 'error'),
    [
        pytest.param(info, error, id=f'{info.name}: {error.optimizer_error_input.desc}')
        for info in INFOS
        for error in info.optim_error_inputs_func('cpu', torch.float32)
    ],
)


def weight_and_bias(dtype=torch.float32, contiguous=True):
    shapes = ((10, 5), (10,)) if contiguous else ((10, 5, 2), (10, 2))
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    return [torch.nn.Parameter(x if contiguous else x[..., 0]) for x in tensors]


def stepped(info, kwargs, params, steps=3):
    """An optimizer that has made some updates."""
    optimizer = info.optim_cls(params, **kwargs)
    for step in range(steps):
        set_gradients(optimizer.param_groups, step)
        optimizer.step()
    return optimizer


def numbers(optimizer):
    """All parameters, and the state of each."""
    params = parameters(optimizer.param_groups)
    return [p.detach() for p in params], [optimizer.state.get(p, {}) for p in params]


def losses(optimizer, weight, bias, schedulers):
    """The loss of a linear layer at each of 20 updates, by a closure."""
    x = torch.randn(5)

    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).square().sum()
        loss.backward()
        return loss.item()

    for _ in range(20):
        yield optimizer.step(closure)
        for scheduler in schedulers:
            plateau = isinstance(scheduler, ReduceLROnPlateau)
            scheduler.step(closure()) if plateau else scheduler.step()
