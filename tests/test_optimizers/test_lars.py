"""LARS against the float64 reference, PyTorch's SGD and numbers by hand."""

import copy

import pytest
import torch
from helpers.optimizers.groups import (
    as_arrays,
    assert_close,
    gradients,
    lockstep,
    make_groups,
    parameters,
    set_gradients,
    step_both,
)
from helpers.optimizers.reference import ReferenceLARS
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdet_largebatch.optimizers import LARS

# A group of weights, and one of biases as the recipes have it.
GROUPS = ({'weight_decay': 5e-4}, {'weight_decay': 0.0, 'lars_exclude': True, 'lr': 1e-3})


def run_both(groups, steps, lr=1.0, **options):
    """Step LARS and the reference on the same gradients, with warmup and decay of the LR."""
    reference = ReferenceLARS(as_arrays(groups), lr, **options)
    optimizer = LARS(groups, lr, **options)
    base = [group['lr'] for group in optimizer.param_groups]
    for step in range(steps):
        factor = min(1.0, (step + 1) / 20) * (0.1 if step > 60 else 1.0)
        for group_lr, *both in zip(base, optimizer.param_groups, reference.groups, strict=True):
            for group in both:
                group['lr'] = group_lr * factor
        reference.step(set_gradients(groups, step))
        optimizer.step()
    return optimizer, reference


VARIANTS = {
    'defaults': {},
    'nesterov': {'nesterov': True},
    'no momentum': {'momentum': 0.0},
    'dampening': {'dampening': 0.25},
    'large eta': {'eta': 0.02, 'lr': 0.1, 'eps': 0.1},
}


@pytest.mark.parametrize('options', VARIANTS.values(), ids=VARIANTS)
def test_100_steps_under_a_changing_lr_equal_the_reference(options):
    groups = make_groups(options=GROUPS)
    run = run_both(groups, 100, **options)
    assert_close(groups, run[1])


def test_float64_parameters_equal_the_reference_to_1e_10():
    groups = make_groups(dtype=torch.float64, options=GROUPS)
    assert_close(groups, run_both(groups, 100)[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_parameters_have_float32_arithmetic_and_buffers(dtype):
    groups = make_groups(dtype=dtype, options=GROUPS)
    optimizer, reference = run_both(groups, 1, lr=50.0)
    # One rounding of the result, half a unit of the last place.
    assert_close(groups, reference, rtol=torch.finfo(dtype).eps * 0.51, atol=1e-7)
    buffers = [state['momentum_buffer'] for state in optimizer.state.values()]
    assert {buf.dtype for buf in buffers} == {torch.float32}


@pytest.mark.parametrize('size', [65_537, 2_000_003])
def test_norms_of_large_tensors_are_accurate(size):
    """torch's own CPU norm of 2,000,003 equal numbers is off by 4e-4."""
    groups = [{'params': [torch.nn.Parameter(torch.full((size,), 0.1))]}]
    reference = ReferenceLARS(as_arrays(groups), lr=1.0, eta=0.5)
    optimizer = LARS(groups, lr=1.0, eta=0.5)
    set_gradients(groups, 0)
    groups[0]['params'][0].grad.fill_(0.3)
    reference.step(gradients(groups))
    optimizer.step()
    assert_close(groups, reference, rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    'options',
    [{}, {'nesterov': True}, {'momentum': 0.0}, {'dampening': 0.25}],
    ids=['plain', 'nesterov', 'no momentum', 'dampening'],
)
def test_excluded_groups_take_the_step_of_pytorchs_sgd(options):
    """An independent peer: at r = 1 and a constant LR, the LR inside or outside is the same."""
    ours, theirs = make_groups(dtype=torch.float64), make_groups(dtype=torch.float64)
    # float32 holds these exactly, so that rounding them changes nothing.
    options = {'lr': 2.0**-4, 'momentum': 0.875, 'weight_decay': 2.0**-6} | options
    optimizer = LARS([{'params': parameters(ours), 'lars_exclude': True}], **options)
    sgd = torch.optim.SGD(parameters(theirs), **options)
    for step in range(20):
        step_both(optimizer, sgd, step)
    for p, q in zip(parameters(ours), parameters(theirs), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_two_updates_by_hand():
    """p = (3, 4), g = (6, 8), every number worked out on paper; the LR changes in between."""
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = LARS([p], lr=2.0, momentum=0.5, weight_decay=0.5, eta=0.25, eps=0.0)
    p.grad = torch.tensor([6.0, 8.0], dtype=torch.float64)
    optimizer.step()
    # r = 0.25 * 5 / (10 + 0.5 * 5) = 0.1; d = g + 0.5 p = (7.5, 10); buf = 2 * 0.1 * d = (1.5, 2).
    close = dict(rtol=1e-15, atol=0)
    buf = optimizer.state[p]['momentum_buffer']
    torch.testing.assert_close(buf, torch.tensor([1.5, 2.0], dtype=torch.float64), **close)
    torch.testing.assert_close(p.data, torch.tensor([1.5, 2.0], dtype=torch.float64), **close)
    optimizer.param_groups[0]['lr'] = 1.0
    p.grad = torch.tensor([0.75, 1.0], dtype=torch.float64)
    optimizer.step()
    # ||p|| = 2.5, ||g|| = 1.25, r = 0.625 / 2.5 = 0.25; d = (1.5, 2), lr * r * d = (0.375, 0.5).
    # buf = 0.5 * (1.5, 2) + (0.375, 0.5) = (1.125, 1.5): the first update's LR stays in it.
    torch.testing.assert_close(buf, torch.tensor([1.125, 1.5], dtype=torch.float64), **close)
    torch.testing.assert_close(p.data, torch.tensor([0.375, 0.5], dtype=torch.float64), **close)


@pytest.mark.parametrize(('weight', 'gradient'), [(0.0, 2.0), (2.0, 0.0)])
def test_ratio_is_1_where_a_norm_is_0(weight, gradient):
    p = torch.nn.Parameter(torch.full((4,), weight))
    p.grad = torch.full((4,), gradient)
    LARS([p], lr=0.5, weight_decay=0.25).step()
    # p - lr * (g + wd * p): 0 - 0.5 * 2 = -1, and 2 - 0.5 * 0.5 = 1.75.
    assert torch.equal(p.detach(), torch.full((4,), -1.0 if weight == 0 else 1.75))


shapes = st.lists(st.sampled_from([(), (0,), (1,), (6,), (2, 3, 2, 2), (65_537,)]), min_size=1)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(shapes.map(lambda s: s[:4]), st.integers(0, 99), st.booleans(), st.data())
def test_any_mixture_equals_the_reference(shapes, seed, nesterov, data):
    groups = make_groups(seed, torch.float32, shapes, GROUPS)
    reference = ReferenceLARS(as_arrays(groups), 1.0, nesterov=nesterov)
    optimizer = LARS(groups, 1.0, nesterov=nesterov)
    for step in range(2):
        set_gradients(groups, step)
        for p in parameters(groups):
            fill = data.draw(st.sampled_from([None, 'missing', 0.0, float('nan'), float('inf')]))
            if fill == 'missing':
                p.grad = None
            elif fill is not None and p.numel():
                p.grad.view(-1)[:: p.numel() if fill else 1] = fill
        reference.step(gradients(groups))
        optimizer.step()
    assert_close(groups, reference)


def test_state_is_one_buffer_and_none_without_momentum():
    groups = make_groups(options=GROUPS)
    optimizer, _ = run_both(groups, 2)
    assert {name for state in optimizer.state.values() for name in state} == {'momentum_buffer'}
    without, _ = run_both(make_groups(options=GROUPS), 2, momentum=0.0)
    assert not any(without.state.values())


def test_a_checkpoint_without_lars_exclude_keeps_the_groups_own():
    optimizer, _ = run_both(make_groups(options=GROUPS), 3)
    checkpoint = copy.deepcopy(optimizer.state_dict())
    for group in checkpoint['param_groups']:
        del group['lars_exclude']
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict(checkpoint)
    assert [group['lars_exclude'] for group in twin.param_groups] == [False, True]
    lockstep(optimizer, twin, 3)
