"""Estimate the gradient noise scale from the gradients of micro-batches.

The quantity is B_simple = tr Sigma / |G|^2 in images, with the gradient G of the expected loss and
the covariance Sigma of the gradient of one image. Source: McCandlish et al., *An Empirical Model of
Large-Batch Training* (arXiv 1812.06162), section 2.2 and appendix A.1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, isfinite, isnan, log10, nan, sqrt

import numpy as np
import torch
from scipy.stats import t as students_t
from torch import Tensor

from ..optimizers import component_of

CONFIDENCE = 0.95


def unbiased_terms(
    squares: np.ndarray, of_mean: np.ndarray, images: int
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate tr Sigma and |G|^2 without bias, from one update.

    With K micro-batches of b images, m the mean of |g_j|^2 and M = |mean of g_j|^2:
    ``tr Sigma = (m - M) b K / (K - 1)`` and ``|G|^2 = (K M - m) / (K - 1)``. |G|^2 may come out
    negative.

    Args:
        squares (np.ndarray): |g_j|^2 of each micro-batch, shape (K, ...), K at least 2.
        of_mean (np.ndarray): M, shape (...).
        images (int): Images of a micro-batch, b.

    Returns:
        tuple[np.ndarray, np.ndarray]: tr Sigma of one image and |G|^2, of shape (...).
    """
    K, m = len(squares), squares.mean(0)
    return (m - of_mean) * images * K / (K - 1), (K * of_mean - m) / (K - 1)


@dataclass(frozen=True)
class NoiseScale:
    """The noise scale, with an interval.

    Args:
        trace (float): Mean of tr Sigma over the measurements.
        square (float): Mean of |G|^2 over the measurements.
        low (float): Lower end of the interval, in images; NaN if tr Sigma cannot be told from 0,
            infinite if |G|^2 is below 0 beyond its error.
        high (float): Upper end of the interval; infinite if |G|^2 cannot be told from 0.
    """

    trace: float
    square: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """float: The noise scale in images; NaN if one of its terms cannot be told from 0."""
        return self.trace / self.square if isfinite(self.high) else nan

    def line(self, batch: int) -> str:
        """Return a line for the log.

        An image at batch B is worth ``1 / (1 + B / B_simple)`` of one at a small batch: an update
        does ``1 / (1 + B_simple / B)`` of what an exact gradient does.

        Args:
            batch (int): The global batch.

        Returns:
            str: The line; the ends of the interval are rounded outwards to two digits.
        """
        if isnan(self.low):
            return 'noise scale unknown: too few measurements to tell the noise of gradients from 0'
        if self.low == inf:
            return (
                'noise scale unknown: |G|^2 is measured below 0, by chance or because an update '
                'takes much of the data set'
            )
        known = isfinite(self.high)
        scale, more = (self.value, '') if known else (_rounded(self.low, floor), 'over ')
        size = f'> {_images(scale)} images'
        if known:
            ends = _images(_rounded(self.low, floor)), _images(_rounded(self.high, ceil))
            size = f'{_images(_rounded(scale, round))} images ({ends[0]} to {ends[1]})'
        worth = [f'{more}{1 / (1 + images / scale):.2f}' for images in (batch, 4 * batch)]
        return (
            f'noise scale {size}: an image at batch {batch} is worth {worth[0]} of one at a small '
            f'batch; {worth[1]} at {4 * batch}'
        )

    def scalars(self) -> dict[str, float]:
        """Return the finite values by name, for a vis backend."""
        values = dict(
            noise_scale=self.value,
            noise_scale_low=self.low,
            noise_scale_high=self.high,
            gradient_variance=self.trace,
            gradient_square=self.square,
        )
        return {name: value for name, value in values.items() if isfinite(value)}


def noise_scale(
    traces: np.ndarray, squares: np.ndarray, confidence: float = CONFIDENCE
) -> NoiseScale:
    """Estimate the noise scale from measurements in several updates.

    Both terms are averaged before their ratio is taken: single values of |G|^2 are often near 0 or
    negative. The interval is Fieller's (*Some problems in interval estimation*, 1954) for the
    ratio |G|^2 / tr Sigma, inverted: all u for which the mean of |G|^2 - u tr Sigma is within
    Student's t of 0.

    Args:
        traces (np.ndarray): tr Sigma of each measurement, shape (n,).
        squares (np.ndarray): |G|^2 of each measurement, shape (n,).
        confidence (float): Confidence level of the interval. Defaults to 0.95.

    Returns:
        NoiseScale: The estimate, with unknown ends for a single measurement.
    """
    n, S, Q = len(traces), float(traces.mean()), float(squares.mean())
    unknown = NoiseScale(S, Q, nan, nan)
    if n < 2 or S <= 0:
        return unknown
    t2 = float(students_t.ppf((1 + confidence) / 2, n - 1)) ** 2
    # In units of the means, whatever the scale of the loss.
    (ss, sq), (_, qq) = np.cov(traces / S, squares / S) / n * t2
    ratio, leading = Q / S, 1 - ss
    if leading <= 0:
        return unknown
    # leading u^2 - 2 (ratio - sq) u + ratio^2 - qq <= 0, which u = ratio fulfils.
    middle = ratio - sq
    root = sqrt(max(middle**2 - leading * (ratio**2 - qq), 0.0))
    first, last = (middle - root) / leading, (middle + root) / leading
    return NoiseScale(S, Q, *(1 / end if end > 0 else inf for end in (last, first)))


@torch.no_grad()
def squares_by_component(
    gradients: Mapping[str, Tensor], components: Sequence[str], device: torch.device
) -> Tensor:
    """Return the squared norm of the gradient of each component, without waiting for the device.

    Args:
        gradients (Mapping[str, Tensor]): Gradients by the parameter's name.
        components (Sequence[str]): Names of the components, such as ``backbone``.
        device (torch.device): Device of the result.

    Returns:
        Tensor: Shape (components,), float64; 0 for a component without a gradient.
    """
    found: dict[str, list[Tensor]] = {component: [] for component in components}
    filled = {name: gradient for name, gradient in gradients.items() if gradient.numel()}
    # In float64: float32 norms of large tensors have an error of 3e-5 on a CPU.
    norms = torch._foreach_norm(list(filled.values()), 2, torch.float64) if filled else ()
    for name, norm in zip(filled, norms, strict=True):
        found[component_of(name)].append(norm.to(device))
    zero = torch.zeros((), dtype=torch.float64, device=device)
    return torch.stack([torch.stack([zero, *norms]).square().sum() for norms in found.values()])


def _rounded(value: float, whole: Callable[[float], int]) -> float:
    """Round a positive number to two digits by `whole`, such as ``math.floor``."""
    unit = 10.0 ** (floor(log10(value)) - 1)
    # Again, since 0.94 / 0.01 is below 94 in floating point.
    return whole(round(value / unit, 6)) * unit


def _images(number: float) -> str:
    return f'{number:,.0f}' if number >= 10 else f'{number:.2g}'
