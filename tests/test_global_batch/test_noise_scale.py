"""The noise scale's estimator on a noisy quadratic, whose Sigma and G are known.

The gradient of an image is G plus normal noise of covariance Sigma, so that of a micro-batch of b
images is normal too, with mean G and covariance Sigma / b. Seeds are fixed.
"""

import re

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from mmdet_largebatch.global_batch.noise_scale import (
    NoiseScale,
    noise_scale,
    squares_by_component,
    unbiased_terms,
)

IMAGES = 2  # of a micro-batch


class Quadratic:
    """100 coordinates with eigenvalues of Sigma from 1 down to 0.13, and a noise scale of N B.

    Args:
        micro_batches (int): K.
        ratio (float): N, the noise scale in global batches B = 2 K.
        size (int): Coordinates. Defaults to 100.
    """

    def __init__(self, micro_batches, ratio, size=100):
        self.sigma = np.exp(-2 * np.arange(size) / size)
        self.trace = self.sigma.sum()
        self.K, self.N = micro_batches, ratio
        self.scale = ratio * micro_batches * IMAGES
        # The same in each coordinate.
        self.G = np.full(size, np.sqrt(self.trace / self.scale / size))
        self.square = (self.G**2).sum()
        self.random = np.random.default_rng(micro_batches)

    def gradients(self, updates):
        """Gradients of micro-batches, shape (K, updates, coordinates)."""
        noise = self.random.standard_normal((self.K, updates, len(self.G)))
        return self.G + noise * np.sqrt(self.sigma / IMAGES)

    def measured(self, updates):
        """tr Sigma and |G|^2 of each update."""
        g = self.gradients(updates)
        return unbiased_terms((g**2).sum(-1), (g.mean(0) ** 2).sum(-1), IMAGES)


def errors(quadratic, traces, squares):
    """Relative errors of the means over all updates."""
    return traces.mean() / quadratic.trace - 1, squares.mean() / quadratic.square - 1


@pytest.mark.parametrize('micro_batches', [2, 8, 64])
def test_no_bias_over_2000_updates(micro_batches):
    """At most 2 %; by the variances below, their standard errors here are at most 0.4 %."""
    quadratic = Quadratic(micro_batches, ratio=0.3)
    traces, squares = quadratic.measured(2000)
    assert np.abs(errors(quadratic, traces, squares)).max() < 0.02
    found = noise_scale(traces, squares, IMAGES)
    assert found.value == pytest.approx(quadratic.scale, rel=0.02)
    assert found.low < quadratic.scale < found.high


def last_micro_batch_alone(gradients):
    """tr Sigma and |G|^2 as gpt-neox's class reports them after each update, by its description.

    |g|^2 is that of the last micro-batch alone. Of both terms a running mean of 0.99 is kept, which
    begins at 0 and is corrected by 1 - 0.99^n, with n the number of micro-batches, though the
    mean has a term an update.
    """
    K, beta, averages, reported = len(gradients), 0.99, np.zeros(2), []
    for update, g in enumerate(gradients.swapaxes(0, 1)):
        large, small = (g.mean(0) ** 2).sum(), (g[-1] ** 2).sum()
        now = (small - large) * IMAGES * K / (K - 1), (K * large - small) / (K - 1)
        averages = beta * averages + (1 - beta) * np.array(now)
        reported.append(averages / (1 - beta ** ((update + 1) * K)))
    return np.array(reported).T


@pytest.mark.parametrize('micro_batches', [2, 8, 64])
def test_an_estimator_that_counts_micro_batches_is_biased(micro_batches):
    """It fails the test above, by what its count says: means of (1 - b^u) / (1 - b^(uK))."""
    quadratic = Quadratic(micro_batches, ratio=0.3)
    found = errors(quadratic, *last_micro_batch_alone(quadratic.gradients(2000)))
    assert np.abs(found).max() > 0.02
    u = np.arange(1, 2001)
    expected = np.mean((1 - 0.99**u) / (1 - 0.99 ** (u * micro_batches))) - 1
    assert -0.05 < expected < -0.03
    # Its noise is that of one micro-batch.
    assert found[0] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize('micro_batches', [2, 8, 64])
def test_variances_are_those_of_the_formulas(micro_batches):
    """Of normal gradients: relative standard deviations, to 10 %; 4,000 updates give 2 %."""
    quadratic = Quadratic(micro_batches, ratio=3, size=60)
    K, N, sigma, trace = micro_batches, quadratic.N, quadratic.sigma, quadratic.trace
    d = trace**2 / (sigma**2).sum()
    a = (quadratic.G**2 * sigma).sum() / (quadratic.square * trace)
    traces, squares = quadratic.measured(4000)
    expected = np.sqrt(2 / ((K - 1) * d))
    assert traces.std() / trace == pytest.approx(expected, rel=0.1)
    expected = np.sqrt(4 * N * a + 2 * N**2 * K / ((K - 1) * d))
    assert squares.std() / quadratic.square == pytest.approx(expected, rel=0.1)


def printed(line):
    """The ends of the interval in a line of the log; there are none where |G|^2 is below 0."""
    line = line.replace(',', '')
    if '|G|^2 is measured below 0' in line:
        return np.inf, np.inf
    if '>' in line:
        return float(re.search(r'> ([\d.]+) images:', line)[1]), np.inf
    return tuple(map(float, re.search(r'images \(([\d.]+) to ([\d.]+)\):', line).groups()))


def repeats(quadratic, size=1.0):
    """Of 500 repeats of 20 updates: the share that covers the truth, and that has both ends."""
    covered = known = 0
    for _ in range(500):
        traces, squares = quadratic.measured(20)
        found = noise_scale(size * traces, size * squares, IMAGES)
        low, high = printed(found.line(2 * quadratic.K))
        covered += low <= quadratic.scale <= high
        known += np.isfinite(found.high)
    print(f'K={quadratic.K} N={quadratic.N}: covers {covered / 5} %, both ends {known / 5} %')
    return covered / 500, known / 500


@pytest.mark.parametrize('ratio', [0.31, 3.1, 10.3])
@pytest.mark.parametrize('micro_batches', [2, 8, 64])
def test_the_printed_interval_covers_the_truth(micro_batches, ratio):
    """In 90 to 98 % of the repeats: 95 %, and ends that are rounded outwards."""
    covered, _ = repeats(Quadratic(micro_batches, ratio, size=20))
    assert 0.90 <= covered <= 0.98


@pytest.mark.parametrize('how', ['shrink', 'jump'])
def test_gradients_whose_size_changes_hide_nothing(how):
    """Squares fall by a factor of 1,000 over the 20 updates; or rise by as much in one of them."""
    size = 1e-3 ** (np.arange(20) / 19) if how == 'shrink' else 1e3 ** (np.arange(20) == 7)
    covered, known = repeats(Quadratic(8, 0.31, size=20), size)
    assert covered >= 0.90 and known > 0.98


def in_units(traces, squares):
    """Both in units of the mean |g_j|^2 = |G|^2 + tr Sigma / b around each measurement."""
    m, last = squares + traces / IMAGES, len(traces) - 1
    around = [np.sqrt(m[max(i - 1, 1 - i)] * m[min(i + 1, 2 * last - i - 1)]) for i in range(last)]
    around = np.maximum([*around, m[last - 1]], m / 3)
    return traces / around, squares / around


def test_the_interval_is_all_ratios_that_students_t_does_not_reject():
    """Against the definition: a t-test of |G|^2 - u tr Sigma at a confidence of 95 %, by SciPy."""
    traces, squares = Quadratic(8, ratio=2, size=40).measured(20)
    found = noise_scale(traces, squares, IMAGES)
    traces, squares = in_units(traces, squares)
    assert found.value == pytest.approx(traces.sum() / squares.sum())
    for end, step in ((found.low, 1.001), (found.high, 0.999)):
        assert ttest_1samp(squares - traces / end, 0).pvalue == pytest.approx(0.05, rel=1e-6)
        assert ttest_1samp(squares - traces / (end * step), 0).pvalue > 0.05


def test_what_cannot_be_told():
    """Three measurements with |G|^2 about 0, one alone, and tr Sigma that is noise."""
    squares = np.array([1e-4, -2e-4, 2e-4])
    found = noise_scale(np.array([1.0, 1.0, 1.0]), squares, IMAGES)
    assert np.isnan(found.value) and found.high == np.inf
    # |G|^2 is at most its mean and 4.303 (t of 2 degrees of freedom) standard errors.
    upper = squares.mean() + 4.303 * squares.std(ddof=1) / np.sqrt(3)
    assert found.low == pytest.approx(1 / upper, rel=0.01)
    for traces, squares in (([1.0], [1.0]), ([1.0, -0.9], [1.0, 1.0]), ([0.0, 0.0], [0.0, 0.0])):
        found = noise_scale(np.array(traces), np.array(squares), IMAGES)
        assert np.isnan([found.low, found.high, found.value]).all()
        assert found.line(16).startswith('noise scale unknown: too few')
        assert found.scalars() == {}


def test_squares_below_0_beyond_their_error():
    """As where an update takes the whole data set, whose mean gradient has no noise."""
    found = noise_scale(np.array([1.0, 1.1, 0.9]), np.array([-0.3, -0.33, -0.27]), IMAGES)
    assert (found.low, found.high) == (np.inf, np.inf) and np.isnan(found.value)
    assert found.line(16).startswith('noise scale unknown: |G|^2 is measured below 0')
    assert found.scalars() == {}


def test_updates_without_a_gradient_do_not_count():
    """As of a component that is frozen at first."""
    traces, squares = Quadratic(8, ratio=2, size=40).measured(10)
    frozen = np.zeros(3)
    found = noise_scale(np.append(frozen, traces), np.append(frozen, squares), IMAGES)
    assert found == noise_scale(traces, squares, IMAGES)


def test_the_line():
    """By hand: 1 / (1 + 128 / 310) = 0.708, 1 / (1 + 512 / 310) = 0.377; 1 / (1 + 16 / 900)."""
    line = NoiseScale(310.0, low=245.0, high=412.0).line(128)
    assert line == (
        'noise scale 310 images (240 to 420): an image at batch 128 is worth 0.71 of one at a '
        'small batch; 0.38 at 512'
    )
    line = NoiseScale(np.nan, low=904.0, high=np.inf).line(16)
    assert line == (
        'noise scale > 900 images: an image at batch 16 is worth over 0.98 of one at a small '
        'batch; over 0.93 at 64'
    )
    line = NoiseScale(12345.0, low=0.94, high=99999.0).line(16)
    assert line.startswith('noise scale 12,000 images (0.94 to 100,000): ')


def test_squares_by_component_in_float64():
    """Against NumPy, of parameters in two dtypes, one empty, and a component without any."""
    random = np.random.default_rng(0)
    arrays = {
        'backbone.conv': random.standard_normal((3, 4)),
        'backbone.bias': random.standard_normal(300_000),
        'roi_head.bbox_head.fc': random.standard_normal((5, 2)),
        'roi_head.bbox_head.none': np.zeros((0, 3)),
    }
    gradients = {name: torch.tensor(x).to(torch.float32) for name, x in arrays.items()}
    gradients['backbone.conv'] = gradients['backbone.conv'].half()
    components = ['backbone', 'neck', 'bbox_head']
    found = squares_by_component(gradients, components, torch.device('cpu'))
    exact = {name: float((g.double().numpy() ** 2).sum()) for name, g in gradients.items()}
    expected = [exact['backbone.conv'] + exact['backbone.bias'], 0, exact['roi_head.bbox_head.fc']]
    assert found.dtype is torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert squares_by_component({}, components, torch.device('cpu')).tolist() == [0, 0, 0]
