"""Every detector on other numbers of processes: to the last bit with exact sums, and in float64."""

import pytest
import torch
from helpers.same_bits import assert_same_bits

pytestmark = pytest.mark.multiprocess

DETECTORS = (
    *('mask_rcnn_gn', 'mask_rcnn_bn', 'retinanet', 'fcos', 'atss', 'gfl', 'yolox'),
    *('cascade_rcnn', 'deformable_detr'),
)
# 20 pictures in 8 micro-batches of 2: an epoch has 2 updates.
EXACT = {
    'train_cfg.exact_sum': True,
    'optim_wrapper.optimizer': dict(_delete_=True, type='LAMB', lr=0.005, weight_decay=0.01),
    'custom_hooks': [
        dict(type='EMAHook', momentum=0.1),
        dict(type='WarmupStepLRHook', warmup_iters=3, milestones=[1]),
    ],
}


def all_the_same(runs):
    """Weights, buffers, averages, optimizer, schedule and losses, on every rank of every run."""
    first, *others = [state for ranks in runs for state in ranks]
    for other in others:
        assert_same_bits(first, other)
    return len(others)


@pytest.mark.parametrize('name', ['mask_rcnn_bn', 'fcos', 'yolox'])
def test_the_same_bits_on_1_and_on_3_processes(trained, name):
    """3 micro-batches of 8 are computed by two ranks, 2 by the third."""
    settings = dict(updates=2, **EXACT)
    runs = trained({f'{name}_{ranks}': (name, ranks, settings) for ranks in (1, 3)})
    assert all_the_same(runs.values()) == 3


@pytest.mark.whole
@pytest.mark.parametrize('name', DETECTORS)
def test_the_same_bits_on_1_to_4_processes_and_after_restarts(trained, name):
    """20 updates of 8 micro-batches; and 1 -> 3 -> 2 processes in one work folder."""
    settings = dict(updates=20, **EXACT)
    whole = {f'{name}_{ranks}': (name, ranks, settings) for ranks in (1, 2, 3, 4)}
    parts = {
        f'{name}_until_{end}': (
            *(name, ranks),
            settings | {'folder': name, 'resume': end > 6, 'train_cfg.max_updates': end},
        )
        for ranks, end in ((1, 6), (3, 13), (2, 20))
    }
    runs = trained(whole | parts)
    assert all_the_same(runs[key] for key in whole) == 1 + 2 + 3 + 4 - 1

    [first] = runs[f'{name}_1']
    losses = [loss for key in parts for loss in runs[key][0]['losses']]
    for state in runs[f'{name}_until_20']:
        assert_same_bits(first, state | dict(losses=losses))


def weights_and_losses(trained, name, ranks, types, updates):
    """Train without exact sums on 1 and on several processes; return the pairs for each type."""
    settings = dict(updates=updates, find_unused_parameters=True)
    jobs = {
        f'{name}_{kind}_{n}': (name, n, settings | dict(float64=kind == 'float64'))
        for kind in types
        for n in (1, ranks)
    }
    states = [state for state, *_ in trained(jobs).values()]
    pairs = list(zip(states[::2], states[1::2], strict=True))
    return [[[state[part] for state in pair] for part in ('model', 'losses')] for pair in pairs]


def assert_to_ten_digits(weights, losses):
    one, several = weights
    for key, value in one.items():
        assert value.dtype in (torch.float64, torch.int64)
        torch.testing.assert_close(several[key], value, rtol=1e-10, atol=1e-12)
    for mine, theirs in zip(*losses, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-10)


def relative(weights):
    """Relative L2 difference."""
    one, several = (torch.cat([v.double().flatten() for v in w.values()]) for w in weights)
    return float((one - several).norm() / one.norm())


def test_float64_to_ten_digits_on_1_and_on_3_processes(trained):
    """Batch norm that trains, and losses normalised over ranks."""
    [found] = weights_and_losses(trained, 'atss_bn', 3, ['float64'], updates=2)
    assert_to_ten_digits(*found)


@pytest.mark.whole
@pytest.mark.parametrize('name', DETECTORS)
def test_float64_to_ten_digits_on_1_and_on_4_processes(trained, name):
    """float32 stands beside it in docs/global_batch.md."""
    double, single = weights_and_losses(trained, name, 4, ['float64', 'float32'], updates=3)
    print(f'| {name} | {relative(double[0]):.1e} | {relative(single[0]):.1e} |')
    assert_to_ten_digits(*double)
