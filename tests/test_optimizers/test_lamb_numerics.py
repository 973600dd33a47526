"""LAMB's arithmetic against the float64 reference, PyTorch's Adam and numbers by hand."""

import copy

import numpy as np
import pytest
import torch
from helpers.optimizers.groups import (
    as_arrays,
    assert_close,
    gradients,
    make_groups,
    parameters,
    run_lamb,
    set_gradients,
    step_both,
)
from helpers.optimizers.reference import ReferenceLAMB
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_largebatch.optimizers import LAMB, _cpu_kernels, norms

VARIANTS = {
    'defaults': {},
    'decay in the gradient': {'adam_w_mode': False},
    'ratio for all': {'use_nvlamb': True},
    'no averaging': {'grad_averaging': False, 'lr': 1e-4},
    'no bias correction': {'bias_correction': False},
    'trust clip': {'trust_clip': (0.5, 0.9)},
    'no decay': {'weight_decay': 0.0},
    'large decay': {'weight_decay': 0.3, 'lr': 3e-3, 'betas': (0.8, 0.95), 'eps': 1e-3},
}


@pytest.mark.parametrize('options', VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(
    ('scale', 'max_grad_norm'),
    # About 340 standard normal numbers have norm 18: clipped, below the bound, and switched off.
    [(1.0, 1.0), (1e-3, 1.0), (1.0, None)],
    ids=['clipped', 'not clipped', 'clip off'],
)
def test_100_steps_equal_the_reference(options, scale, max_grad_norm):
    groups = make_groups()
    _, reference = run_lamb(groups, 100, scale, max_grad_norm, **options)
    assert_close(groups, reference)


def test_float64_parameters_equal_the_reference_to_1e_10():
    groups = make_groups(dtype=torch.float64)
    optimizer, reference = run_lamb(groups, 100)
    assert_close(groups, reference, rtol=1e-10, atol=1e-12)
    state = optimizer.state[groups[0]['params'][0]]
    assert {value.dtype for value in state.values()} == {torch.float64}


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_parameters_have_float32_arithmetic_and_moments(dtype):
    groups = make_groups(dtype=dtype)
    reference = ReferenceLAMB(as_arrays(groups), lr=0.1)
    optimizer = LAMB(groups, lr=0.1)
    reference.step(set_gradients(groups, 0))
    optimizer.step()
    # One rounding of the result, half a unit of the last place; in half arithmetic it is several.
    assert_close(groups, reference, rtol=torch.finfo(dtype).eps * 0.51, atol=1e-7)
    for i, p in enumerate(groups[0]['params'][:-1]):
        for name, expected in (('exp_avg', 'm'), ('exp_avg_sq', 'v')):
            assert optimizer.state[p][name].dtype == torch.float32
            actual = optimizer.state[p][name].numpy()
            np.testing.assert_allclose(actual, reference.groups[0][expected][i], rtol=2e-6)


def test_parameters_of_several_dtypes_are_clipped_by_one_norm():
    groups = make_groups() + make_groups(1, torch.float64) + make_groups(2, torch.bfloat16)
    reference = ReferenceLAMB(as_arrays(groups))
    optimizer = LAMB(groups)
    reference.step(set_gradients(groups, 0))
    optimizer.step()
    assert_close(groups[:2], _part(reference, 0, 2))
    # Not to 1e-10: the one norm of all holds those of the float32 gradients.
    assert_close(groups[2:4], _part(reference, 2, 4), rtol=1e-6, atol=0)
    assert_close(groups[4:], _part(reference, 4, 6), rtol=0.51 * 2**-7)  # bfloat16's last place


def _part(reference, start, stop):
    part = copy.copy(reference)
    part.groups = reference.groups[start:stop]
    return part


@pytest.mark.parametrize('size', [65_537, 2_000_003])
@pytest.mark.parametrize('constant', [False, True])
def test_norms_of_large_tensors_are_accurate(size, constant):
    """torch's own CPU norm of 2,000,003 equal numbers is off by 4e-4, far outside these bounds."""
    torch.manual_seed(0)
    value = torch.full((size,), 0.1) if constant else 0.1 * torch.randn(size)
    groups = [{'params': [torch.nn.Parameter(value)]}]
    reference = ReferenceLAMB(as_arrays(groups), lr=0.1)
    optimizer = LAMB(groups, lr=0.1)
    for step in range(2):
        set_gradients(groups, step)
        if constant:
            groups[0]['params'][0].grad.fill_(0.3)
        reference.step(gradients(groups))
        optimizer.step()
    assert_close(groups, reference, rtol=2e-6, atol=1e-7)


def test_second_moment_takes_1_minus_beta2_from_the_rounded_beta2():
    """After 200 steps v is off by 1.3e-5 where 1 - 0.999 is taken in double."""
    p = torch.nn.Parameter(torch.ones(10))
    optimizer = LAMB([p], max_grad_norm=None)
    gradient = torch.linspace(0.1, 1, 10)
    beta2 = float(np.float32(0.999))
    right = trap = np.zeros(10)
    square = gradient.double().numpy() ** 2
    for _ in range(200):
        p.grad = gradient.clone()
        optimizer.step()
        right = beta2 * right + (1 - beta2) * square
        trap = beta2 * trap + (1 - 0.999) * square
    v = optimizer.state[p]['exp_avg_sq'].numpy()
    # 200 roundings of a sum that only grows: up to 3e-6, well below the trap's 1.3e-5.
    np.testing.assert_allclose(v, right, rtol=4e-6)
    assert np.all(np.abs(v / trap - 1) > 9e-6)


def test_without_ratio_and_clip_it_is_pytorchs_adam():
    """An independent peer: with no decay the trust ratio is 1, and LAMB is Adam."""
    ours, theirs = make_groups(dtype=torch.float64), make_groups(dtype=torch.float64)
    # Betas that float32 holds exactly, so that rounding them changes nothing.
    betas, lr, eps = (0.875, 0.96875), 2.0**-8, 2.0**-20
    optimizer = LAMB(parameters(ours), lr, betas, eps, 0.0, max_grad_norm=None)
    adam = torch.optim.Adam(parameters(theirs), lr, betas, eps)
    for step in range(20):
        step_both(optimizer, adam, step)
    for p, q in zip(parameters(ours), parameters(theirs), strict=True):
        # Both corrections of the bias are rounded to float32 here: 6e-8.
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-7)


def test_one_update_by_hand():
    """p = (3, 4), g = (30, 40), clip at 5, no correction: every number worked out on paper."""
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    p.grad = torch.tensor([30.0, 40.0], dtype=torch.float64)
    optimizer = LAMB(
        [p], 0.5, (0.5, 0.75), 0.0, 0.25, bias_correction=False, max_grad_norm=5.0, backend='torch'
    )
    optimizer.step()
    # G = 50, c = 10, g = (3, 4). m = g / 2 = (1.5, 2), v = g * g / 4 = (2.25, 4), m / sqrt(v) = 1.
    # u = (1 + 0.75, 1 + 1) = (1.75, 2). ||p|| = 5, ||u||^2 = 7.0625. p - 0.5 * 5 / ||u|| * u.
    size = 2.5 / 7.0625**0.5
    expected = torch.tensor([3 - size * 1.75, 4 - size * 2], dtype=torch.float64)
    torch.testing.assert_close(p.detach(), expected, rtol=1e-15, atol=0)
    torch.testing.assert_close(
        optimizer.state[p]['exp_avg_sq'], torch.tensor([2.25, 4.0], dtype=torch.float64)
    )


@st.composite
def problems(draw, shapes):
    """Groups that differ in their decay, special gradients, tensors of zeros, and options."""
    decays = draw(st.lists(st.sampled_from([0.0, 1e-4, 0.5]), min_size=1, max_size=2))
    options = [{'weight_decay': decay} for decay in decays]
    groups = make_groups(draw(st.integers(0, 99)), torch.float32, draw(shapes), options)
    kinds = st.sampled_from(['normal', 'normal', 'none', 'zero', 'nan', 'inf', 'tiny'])
    for p in parameters(groups):
        p.kind = draw(kinds)
        if draw(st.integers(0, 3)) == 0:
            p.data.zero_()
    options = dict(
        adam_w_mode=draw(st.booleans()),
        use_nvlamb=draw(st.booleans()),
        max_grad_norm=draw(st.sampled_from([None, 0.5, 1e6])),
        trust_clip=draw(st.sampled_from([None, (0.1, 2.0)])),
    )
    return groups, options


def spoil(p):
    """Give a gradient its special value."""
    if p.kind == 'none':
        p.grad = None
    elif p.kind in ('zero', 'tiny'):
        p.grad.mul_({'zero': 0.0, 'tiny': 1e-12}[p.kind])
    elif p.kind in ('nan', 'inf') and p.numel():
        p.grad.view(-1)[0] = float(p.kind)


def check_problem(problem, steps):
    """NaN and infinity must stand at the same places: the comparison takes them for equal."""
    groups, options = problem
    reference = ReferenceLAMB(as_arrays(groups), **options)
    optimizer = LAMB(groups, backend='torch', **options)
    for step in range(steps):
        set_gradients(groups, step)
        if step != 1:
            for p in parameters(groups):
                spoil(p)
        reference.step(gradients(groups))
        optimizer.step()
    assert_close(groups, reference)


SMALL = st.lists(
    st.sampled_from([(), (0,), (3, 0), (1,), (6,), (2, 3, 2, 2)]), min_size=1, max_size=4
)
LARGE = st.sampled_from([65_535, 65_536, 65_537]).map(lambda size: [(), (size,)])


@settings(max_examples=60, derandomize=True, deadline=None)
@given(problems(SMALL))
def test_any_mixture_equals_the_reference(problem):
    check_problem(problem, steps=3)


@settings(max_examples=8, derandomize=True, deadline=None)
@given(problems(LARGE))
def test_any_mixture_with_a_large_tensor_equals_the_reference(problem):
    check_problem(problem, steps=2)


@pytest.mark.parametrize('special', [float('nan'), float('inf')])
def test_a_bad_gradient_spoils_as_in_the_reference(special):
    """NaN is not above the bound, so c = 1 and only its own tensor, by its norms, becomes NaN.
    With infinity c is infinite, and every other gradient becomes 0.
    """
    groups = [{'params': [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]}]
    reference = ReferenceLAMB(as_arrays(groups))
    optimizer = LAMB(groups)
    bad, good = groups[0]['params']
    bad.grad, good.grad = torch.tensor([1.0, special, 1.0]), torch.ones(3)
    reference.step(gradients(groups))
    optimizer.step()
    assert_close(groups, reference)
    assert torch.isnan(bad).all()
    assert torch.isfinite(good).all()
    m = optimizer.state[good]['exp_avg']
    assert torch.equal(m, torch.zeros(3)) == (special == float('inf'))


@pytest.fixture
def as_on_gpu(monkeypatch):
    """The way that a GPU's tensors go, with a CPU's."""
    for module in (_cpu_kernels, norms):
        monkeypatch.setattr(module, 'is_on_host', lambda x: False)


class _RefuseReadBack(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('options', [{}, {'use_nvlamb': True, 'trust_clip': (0.1, 2.0)}])
def test_step_reads_nothing_back_to_the_host(options, as_on_gpu):
    """Whatever reads a number out of a tensor goes through ``_local_scalar_dense``."""
    groups = make_groups()
    optimizer = LAMB(groups, **options)
    set_gradients(groups, 0)
    with _RefuseReadBack():
        optimizer.step()
        with pytest.raises(AssertionError):
            groups[0]['params'][0].item()


def test_max_grad_norm_is_the_defaults_and_bounds_all_groups_together():
    groups = make_groups()
    optimizer, reference = run_lamb(groups, 1, max_grad_norm=3.0)
    for group in optimizer.param_groups:
        group['max_grad_norm'] = 1e-6  # as in Apex, nobody reads it there
    reference.step(set_gradients(groups, 7))
    optimizer.step()
    assert_close(groups, reference)
