"""Branches on noisy quadratics whose edge of stability is known, compared by losses alone.

The branches are made by PyTorch's and this package's optimizers, without a runner;
test_tools/test_branch.py trains such branches by the tool.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.quadratic import CURVATURES
from mmengine.config import Config

from mmdet_largebatch import LAMB, LARS
from mmdet_largebatch.tuning.branch_conclusions import batch_conclusion, lr_conclusion
from mmdet_largebatch.tuning.branch_report import write_branches
from mmdet_largebatch.tuning.comparison import (
    DIVERGED,
    Curve,
    compare,
    diverged,
    edge,
    largest_batch,
    suggested_lr,
)

BATCH, MOMENTUM = 16, 0.9


def branch(make, lr, seed, updates=100, curvatures=CURVATURES, spread=0.3, decay=0):
    """Losses of a branch from w = 3, on the draws of a seed: a (w - x)^2 / 2, x around 0."""
    draws = np.random.default_rng(seed)
    w = torch.nn.Parameter(torch.full((len(curvatures),), 3.0))
    optimizer = make([w], lr)
    a, losses = torch.tensor(curvatures, dtype=torch.float32), []
    for update in range(updates + decay):
        if update == updates:
            optimizer.param_groups[0]['lr'] = lr / 10
        x = torch.tensor(spread * draws.standard_normal((BATCH, len(a))), dtype=torch.float32)
        loss = (a * (w - x) ** 2 / 2).sum(1).mean()
        if not torch.isfinite(loss):
            return Curve(lr, lr, BATCH, np.array(losses), broken=True)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Curve(lr, lr, BATCH, np.array(losses), decayed=decay)


def sgd(params, lr):
    return torch.optim.SGD(params, lr, momentum=MOMENTUM)


def lars(params, lr):
    return LARS(params, lr, momentum=MOMENTUM)


def lamb(params, lr):
    return LAMB(params, lr, weight_decay=0.0, use_nvlamb=True, max_grad_norm=None)


def edge_of_lamb():
    """The LR at which LAMB's equation in float64, for one weight and curvature 1, begins to grow.

    The trust ratio makes a step as long as LR x |w|, in the direction of the first moment.
    """

    def grows(lr):
        w, m, v, losses = 3.0, 0.0, 0.0, []
        for t in range(1, 101):
            losses.append(w * w / 2)
            m, v = 0.9 * m + 0.1 * w, 0.999 * v + 0.001 * w * w
            update = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6)
            w -= lr * abs(w) * np.sign(update)
        return np.mean(losses[50:]) > DIVERGED * losses[0]

    return next(lr for lr in np.geomspace(0.1, 4, 400) if grows(lr))


# SGD with momentum m: Polyak 1964, LR x largest curvature = 2 (1 + m). LARS at equal curvatures
# multiplies the gradient by eta |w| / |gradient|, so the curvature cancels and eta takes its place.
KNOWN = {
    'SGD': (sgd, CURVATURES, 2 * (1 + MOMENTUM), [0.5, 1, 2, 4, 8]),
    'LARS': (lars, np.ones(20), 2 * (1 + MOMENTUM) / 1e-3, [500, 1000, 2000, 4000, 8000]),
    'LAMB': (lamb, np.ones(20), edge_of_lamb(), [0.25, 0.5, 1, 2, 4]),
}


@pytest.mark.parametrize('name', KNOWN)
def test_the_edge_of_stability(name):
    """The middle of the bracket is within a factor of 2^0.5, as it must be on a grid of twos."""
    make, curvatures, known, lrs = KNOWN[name]
    compared = compare([branch(make, lr, 0, curvatures=curvatures) for lr in lrs])
    low, high = edge(compared)
    assert low < known < high
    assert 2**-0.5 <= np.sqrt(low * high) / known <= 2**0.5
    assert suggested_lr(compared) <= high / 2


def smoothed(losses):
    """fastai's running average of losses, with its factor 0.98."""
    average, result = 0.0, []
    for number, loss in enumerate(losses, 1):
        average = 0.98 * average + 0.02 * loss
        result.append(average / (1 - 0.98**number))
    return result


def valley(lrs, losses):
    """fastai's rule, from facts: the middle of the longest decreasing stretch of a sweep."""
    longest = [1] * len(losses)
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j]:
                longest[i] = max(longest[i], longest[j] + 1)
    end = int(np.argmax(longest))
    return lrs[end - longest[end] // 2]


def range_test(seed):
    """One sweep through all LRs, 1e-7 to 10 in 100 updates, until the loss is 4 times the least."""
    lrs, w = np.geomspace(1e-7, 10, 100), torch.nn.Parameter(torch.full((20,), 3.0))
    draws, optimizer = np.random.default_rng(seed), sgd([w], 1.0)
    a, losses = torch.tensor(CURVATURES, dtype=torch.float32), []
    for lr in lrs:
        optimizer.param_groups[0]['lr'] = lr
        x = torch.tensor(0.3 * draws.standard_normal((BATCH, 20)), dtype=torch.float32)
        loss = (a * (w - x) ** 2 / 2).sum(1).mean()
        losses.append(loss.item())
        if losses[-1] > 4 * min(losses):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return valley(lrs, smoothed(losses))


def over_lrs(seed, decay):
    lrs = [0.0625, 0.125, 0.25, 0.5, 1, 2, 4]
    return compare([branch(sgd, lr, seed, decay=decay) for lr in lrs])


@pytest.fixture(scope='module')
def repeats():
    return {decay: [over_lrs(seed, decay) for seed in range(5)] for decay in (0, 50)}


def test_the_suggestion_repeats_where_a_range_test_does_not(repeats):
    """After a decay two neighbours of this grid are equal to 1e-3, and either may win."""
    assert len({suggested_lr(compared) for compared in repeats[0]}) == 1
    decayed = [suggested_lr(compared) for compared in repeats[50]]
    assert max(decayed) / min(decayed) <= 2
    assert len({range_test(seed) for seed in range(5)}) > 1


def test_pairing_halves_the_standard_error(repeats):
    """Of the LRs next to the best one, without and with a decay; median over five seeds."""
    ratios = []
    for compared in (*repeats[0], *repeats[50]):
        losses = [one.loss for one in compared]
        best = int(np.argmin(losses))
        ratios += [
            one.error / one.unpaired_error
            for one in compared[max(0, best - 1) : best + 2]
            if one is not compared[best] and not one.diverged
        ]
    assert np.median(ratios) <= 0.5


def test_a_constant_lr_favours_the_lowest_and_a_decay_does_not():
    """Near the optimum a low LR has the lowest loss at once. After a decay progress counts."""

    def best(decay):
        flat = np.geomspace(1e-3, 1, 20)
        curves = [
            branch(sgd, lr, 3, curvatures=flat, spread=2.0, decay=decay)
            for lr in (0.02, 0.08, 0.32)
        ]
        return min(compare(curves), key=lambda one: one.loss).curve.value

    assert best(0) < best(50)


def test_the_standard_error_is_that_of_repeats():
    """Of 400 pairs of curves with known noise, the spread of the difference is the error's mean."""
    draws = np.random.default_rng(0)
    differences, errors = [], []
    for _ in range(400):
        common, fall = draws.standard_normal(100), np.linspace(9, 7, 100)
        curves = [
            Curve(value, value, 8, 20 + common + value * fall + draws.standard_normal(100))
            for value in (0.0, 1.0)
        ]
        _, one = compare(curves, against=0.0)
        differences.append(one.difference)
        errors.append(one.error)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(differences), rel=0.1)
    # The window is the second half: 50 updates with a noise of sqrt(2).
    assert np.std(differences) == pytest.approx(np.sqrt(2 / 50), rel=0.1)


def made(value, losses, batch=8, **more):
    return Curve(value, value, batch, np.asarray(losses, float), **more)


def test_losses_are_compared_after_the_decay_alone():
    losses = np.concatenate([np.full(80, 9.0), np.full(20, 5.0), np.arange(20.0)])
    [one] = compare([made(1, losses, decayed=40)])
    # Of 40 decayed updates the last 20: 0 to 19.
    assert one.loss == pytest.approx(9.5) and one.difference == 0


def test_batches_are_compared_on_the_same_images():
    """The loss by image is the same function: its mean over each block is, at any batch."""
    compared = compare([made(b, 1e4 / (b * np.arange(1, 6400 // b + 1)), b) for b in (8, 32)], 8)
    assert compared[1].difference == pytest.approx(0, abs=0.02 * compared[0].loss)
    assert len(compared[0].curve.blocks()) == len(compared[1].curve.blocks()) == 10


@pytest.mark.parametrize(
    ('losses', 'expected'),
    [
        ({64: 1.0, 128: 1.005, 256: 1.02}, 128),
        ({64: 1.0, 128: 0.99, 256: 1.0}, 256),
        ({64: 1.0, 128: 1.05, 256: 1.0}, 64),
    ],
)
def test_largest_batch(losses, expected):
    """Within 1 % of the loss of batch 64, and so are all batches below."""
    curves = [made(b, np.full(25600 // b, loss), b) for b, loss in losses.items()]
    assert largest_batch(compare(curves, 64), 0.01) == expected


def test_divergence():
    start = np.full(100, 2.0)
    grown = np.concatenate([np.full(50, 2.0), np.full(50, 3.1)])
    curves = [
        made(1, start),
        made(2, grown),
        made(3, start[:30], broken=True),
        made(4, start * 1.4),
    ]
    assert diverged(curves) == [False, True, True, False]
    compared = compare(curves)
    assert edge(compared) == (1, 2)
    assert suggested_lr(compared) == 1
    assert [one.loss for one in compared] == [2.0, np.inf, np.inf, pytest.approx(2.8)]
    everything = compare([made(1, start[:5], broken=True), made(2, start[:5], broken=True)])
    assert edge(everything) == (None, 1) and suggested_lr(everything) is None


RECIPE = Config(dict(optim_wrapper=dict(optimizer=dict(lr=1.0))))
START = np.full(100, 2.0)
BROKEN = dict(losses=np.r_[np.nan, START], broken=True)
EMPTY = dict(losses=[], broken=True)
GROWN = dict(losses=np.r_[START, START * 2])
GOOD = dict(losses=START)
FALLEN = dict(losses=np.linspace(2.0, 1.0, 100))


@pytest.mark.parametrize('lowest', [BROKEN, EMPTY])
def test_a_broken_lowest_branch_is_not_the_measure_of_the_others(lowest, tmp_path):
    compared = compare([made(1, **lowest), made(2, **GOOD), made(3, **FALLEN), made(4, **GROWN)])
    assert [one.diverged for one in compared] == [True, False, False, True]
    # Means of the second half: 2, and of 2 falling to 1.
    assert [one.loss for one in compared[1:3]] == [2.0, pytest.approx(1.25, abs=0.01)]
    assert lr_conclusion(compared, RECIPE, 1.0) == 'LR 1 diverged. Try lower ones with --lr.\n'
    table = write_branches(compared, 'lr', tmp_path)
    assert table.count('diverged') == 2 and table.count('done') == 2


@pytest.mark.parametrize('smallest', [BROKEN, EMPTY, GROWN])
def test_nothing_is_compared_with_a_smallest_batch_that_diverged(smallest, tmp_path):
    compared = compare([made(64, **smallest), made(128, **FALLEN), made(256, **GROWN)], 64)
    assert largest_batch(compared, 0.01) is None
    assert batch_conclusion(compared, RECIPE, {}, 0.01) == (
        'The smallest batch 64 diverged: there is nothing to compare the others with. Try a lower '
        '--lr.\n'
    )
    write_branches(compared, 'global_batch', tmp_path)


def test_a_last_stage_in_which_every_branch_diverged(tmp_path):
    """Halving dropped the LRs 1 and 2, which were stable."""
    stage = compare([made(lr, START + 1 / lr) for lr in (1, 2, 4, 8)])
    dropped = [replace(one, whole=False) for one in stage[:2]]
    compared = [*dropped, *compare([made(lr, **GROWN) for lr in (4, 8)])]
    assert suggested_lr(compared) is None
    assert lr_conclusion(compared, RECIPE, 1.0) == (
        'Edge of stability: between LR 2 and 4.\nEvery LR of the last stage diverged. Try LRs '
        'below the edge with --lr, without --halving.\n'
    )
    write_branches(compared, 'lr', tmp_path)
