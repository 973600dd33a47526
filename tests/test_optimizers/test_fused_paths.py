"""The ways that tensors go through PyTorch's fused kernels: in blocks, in lists, and past them.

Expected numbers are the float64 reference's; what a step allocates is what PyTorch's profiler saw.
"""

import pytest
import torch
from helpers.optimizers.groups import (
    SHAPES,
    as_arrays,
    assert_close,
    gradients,
    make_groups,
    parameters,
    run_lamb,
    set_gradients,
)
from helpers.optimizers.reference import ReferenceLARS
from torch.profiler import ProfilerActivity, profile

from mmdet_largebatch.optimizers import LAMB, LARS, _cpu_kernels, norms

LAMB_OPTIONS = {
    'defaults': {},
    'decay in the gradient': {'adam_w_mode': False},
    'ratio for all': {'use_nvlamb': True},
    'no bias correction': {'bias_correction': False, 'betas': (0.5, 0.7)},
    'no first moment': {'betas': (0.0, 0.9)},
    'no clip': {'max_grad_norm': None},
    'trust clip': {'trust_clip': (0.5, 0.9)},
}
LARS_OPTIONS = {
    'defaults': {},
    'no momentum': {'momentum': 0.0},
    'dampening': {'dampening': 0.25},
    'nesterov': {'nesterov': True},
}
LARS_GROUPS = ({'weight_decay': 5e-4}, {'weight_decay': 0.0, 'lars_exclude': True, 'lr': 1e-3})


@pytest.fixture
def gpus_way(monkeypatch):
    """The way of a GPU's tensors, gone by a CPU's; batches of few tensors."""
    for module in (_cpu_kernels, norms):
        monkeypatch.setattr(module, 'is_on_host', lambda x: False)
    monkeypatch.setattr(_cpu_kernels, 'GPU_BATCH', 100)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_cpu_kernels, 'BLOCK', 2048)
    monkeypatch.setattr(_cpu_kernels, 'SMALLEST', 2048)


def run_lars(groups, steps, **options):
    reference = ReferenceLARS(as_arrays(groups), 1.0, **options)
    optimizer = LARS(groups, 1.0, **options)
    for step in range(steps):
        for group in optimizer.param_groups + reference.groups:
            group['lr'] *= 0.9
        reference.step(set_gradients(groups, step))
        optimizer.step()
    return optimizer, reference


@pytest.mark.parametrize('options', LAMB_OPTIONS.values(), ids=LAMB_OPTIONS)
def test_lamb_in_lists_equals_the_reference(gpus_way, options):
    groups = make_groups(shapes=[*SHAPES, (40, 7), (3,)])
    assert_close(groups, run_lamb(groups, 30, scale=10.0, **options)[1])


@pytest.mark.parametrize('options', LARS_OPTIONS.values(), ids=LARS_OPTIONS)
def test_lars_in_lists_equals_the_reference(gpus_way, options):
    groups = make_groups(shapes=[*SHAPES, (40, 7), (3,)], options=LARS_GROUPS)
    assert_close(groups, run_lars(groups, 30, **options)[1])


# The largest takes more than 21 blocks.
LARGE = [(45_000,), (7,), (30, 100, 3), (2049,), (2048,)]


@pytest.mark.parametrize('options', LAMB_OPTIONS.values(), ids=LAMB_OPTIONS)
def test_lamb_in_blocks_equals_the_reference(small_blocks, options):
    """The last blocks of the largest tensor do not fit the buffer and are computed twice."""
    groups = make_groups(shapes=LARGE)
    optimizer, reference = run_lamb(groups, 5, scale=10.0, **options)
    (large, *_), _ = (group['params'] for group in optimizer.param_groups)
    row = (large.detach(),) * 4
    kept = [keep for *_, keep in optimizer._kernels.blocks(row)]
    assert len(kept) > 21 and kept[0] and not all(kept)
    assert_close(groups, reference)


@pytest.mark.parametrize('options', LARS_OPTIONS.values(), ids=LARS_OPTIONS)
def test_lars_in_blocks_equals_the_reference(small_blocks, options):
    groups = make_groups(shapes=LARGE, options=LARS_GROUPS)
    assert_close(groups, run_lars(groups, 5, **options)[1])


@pytest.mark.parametrize('kind', [LAMB, LARS])
@pytest.mark.parametrize('laid_out', ['gradient', 'parameter', 'both', 'sliced'])
def test_memory_formats_do_not_matter(kind, laid_out):
    """channels_last where only the gradient has it, only the parameter, both; a view with gaps."""
    run = run_lamb if kind is LAMB else run_lars
    groups = make_groups(shapes=[(4, 3, 5, 5)], options=({},))
    (p,) = groups[0]['params']
    if laid_out == 'sliced':
        wide = torch.zeros(4, 3, 5, 10)
        wide[..., ::2] = p.data
        p.data = wide[..., ::2]
    elif laid_out != 'gradient':
        p.data = p.data.to(memory_format=torch.channels_last)
    optimizer, reference = run(groups, 0)
    for step in range(4):
        reference.step(set_gradients(groups, step))
        if laid_out in ('gradient', 'both'):
            p.grad = p.grad.to(memory_format=torch.channels_last)
        optimizer.step()
    assert_close(groups, reference)


@pytest.mark.parametrize('kind', [LAMB, LARS])
def test_gradients_are_left_as_they_are(kind, small_blocks):
    groups = make_groups(shapes=LARGE)
    optimizer = kind(groups, lr=0.1)
    before = set_gradients(groups, 0, scale=10.0)
    optimizer.step()
    for after, group in zip(gradients(groups), before, strict=True):
        assert all((a == b).all() for a, b in zip(after, group, strict=True))


def bytes_of_a_step(optimizer):
    """The most that a step has allocated at a time, above what was there before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        optimizer.step()
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == '[memory]':
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize(
    ('kind', 'options'),
    [(LAMB, {}), (LAMB, {'adam_w_mode': False}), (LARS, {'weight_decay': 5e-4})],
)
def test_a_step_takes_no_more_memory_than_the_largest_tensor(kind, options):
    """Buffers that LAMB keeps between steps count as if each step had allocated them."""
    largest = 3_000_000
    shapes = [(largest,), (500, 1000), (64,), (2_000_000,), *[(256,)] * 40]
    groups = make_groups(shapes=shapes, options=({}, {'weight_decay': 0.0}))
    optimizer = kind(groups, lr=1e-3, **options)
    set_gradients(groups, 0, scale=10.0)
    optimizer.step()
    kept = 0
    if kind is LAMB:
        kept = optimizer._kernels.scratch.untyped_storage().nbytes()
    peak = kept + bytes_of_a_step(optimizer)
    assert 0 < peak <= 4 * largest
    # What the count is worth: this SGD adds the decay to a copy of one gradient after the other.
    sgd = torch.optim.SGD(parameters(groups), lr=0.1, weight_decay=0.1, foreach=False)
    assert bytes_of_a_step(sgd) == 4 * largest
