"""Parameters, gradients and their comparison with the reference."""

import numpy as np
import torch

from mmdet_largebatch.optimizers import LAMB

from .reference import ReferenceLAMB

# 0-d, a bias, a matrix, a convolution, an empty one.
SHAPES = [(), (7,), (5, 3), (4, 3, 3, 3), (0, 2)]


def make_groups(seed=0, dtype=torch.float32, shapes=SHAPES, options=({}, {'weight_decay': 0.0})):
    """One group of all shapes per dict of options."""
    draw = torch.Generator().manual_seed(seed)
    return [
        {'params': [torch.nn.Parameter(torch.randn(s, generator=draw).to(dtype)) for s in shapes]}
        | option
        for option in options
    ]


def as_arrays(groups):
    """The same groups for the reference."""
    return [
        {**group, 'params': [p.detach().double().numpy().copy() for p in group['params']]}
        for group in groups
    ]


def parameters(groups):
    return [p for group in groups for p in group['params']]


def set_gradients(groups, seed, scale=1.0):
    """Draw a gradient for every parameter; returns them for the reference."""
    draw = torch.Generator().manual_seed(seed)
    for p in parameters(groups):
        p.grad = (scale * torch.randn(p.shape, generator=draw)).to(p.dtype)
    return gradients(groups)


def gradients(groups):
    """The gradients as float64 arrays, None where missing."""
    return [
        [None if p.grad is None else p.grad.double().numpy().copy() for p in group['params']]
        for group in groups
    ]


def assert_close(groups, reference, rtol=2e-6, atol=1e-6):
    for group, expected_group in zip(groups, reference.groups, strict=True):
        for p, expected in zip(group['params'], expected_group['params'], strict=True):
            actual = p.detach().double().numpy()
            np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def step_both(ours, theirs, seed):
    """Step two optimizers on the same gradients."""
    for optimizer in (ours, theirs):
        set_gradients(optimizer.param_groups, seed)
        optimizer.step()


def lockstep(ours, theirs, steps, seed=0):
    """Step two optimizers on the same gradients; their parameters must stay equal bit for bit."""
    for step in range(steps):
        step_both(ours, theirs, seed + step)
        pairs = zip(parameters(ours.param_groups), parameters(theirs.param_groups), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)


def run_lamb(groups, steps, scale=1.0, max_grad_norm=1.0, **options):
    """Step LAMB and the reference on the same gradients; the LR changes on the way."""
    reference = ReferenceLAMB(as_arrays(groups), max_grad_norm, **options)
    optimizer = LAMB(groups, max_grad_norm=max_grad_norm, backend='torch', **options)
    for step in range(steps):
        if step == steps // 2:
            for group in optimizer.param_groups + reference.groups:
                group['lr'] *= 0.1
        reference.step(set_gradients(groups, step, scale))
        optimizer.step()
    return optimizer, reference
