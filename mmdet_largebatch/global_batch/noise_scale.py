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
# Greatest size of a measurement in units of those around it. Noise alone does not reach it.
LARGEST = 3.0


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
    """The noise scale in images, with an interval.

    Args:
        value (float): The noise scale; NaN if one of its terms cannot be told from 0.
        low (float): Lower end of the interval; NaN if tr Sigma cannot be told from 0, infinite if
            |G|^2 is below 0 beyond its error.
        high (float): Upper end of the interval; infinite if |G|^2 cannot be told from 0.
    """

    value: float = nan
    low: float = nan
    high: float = nan

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
        values = dict(noise_scale=self.value, noise_scale_low=self.low, noise_scale_high=self.high)
        return {name: value for name, value in values.items() if isfinite(value)}


def noise_scale(traces: np.ndarray, squares: np.ndarray, images: int) -> NoiseScale:
    """Estimate the noise scale from measurements in several updates.

    Both terms are averaged before their ratio is taken: single values of |G|^2 are often near 0 or
    negative. The size of gradients changes manyfold during a training. So that no
    measurement outweighs the others, each is divided by the mean |g_j|^2 around it: the geometric
    mean of the values before and after it. The noise of a measurement does not enter its own
    divisor, so the averages stay without bias. A sudden gradient of more than 3 times that size
    counts as 3 times.

    The interval is Fieller's (*Some problems in interval estimation*, 1954) for the ratio
    |G|^2 / tr Sigma, inverted: all u for which the mean of |G|^2 - u tr Sigma is within Student's t
    of 0, at a confidence of 95 %.

    Args:
        traces (np.ndarray): tr Sigma of each measurement, shape (n,).
        squares (np.ndarray): |G|^2 of each measurement, shape (n,).
        images (int): Images of a micro-batch.

    Returns:
        NoiseScale: The estimate, unknown for a single measurement.
    """
    sizes = squares + traces / images
    # A component is without gradients while it is frozen.
    traces, squares, sizes = (x[sizes > 0] for x in (traces, squares, sizes))
    n = len(sizes)
    if n < 2:
        return NoiseScale()
    around = np.sqrt(np.append(sizes[1], sizes[:-1]) * np.append(sizes[1:], sizes[-2]))
    around = np.maximum(around, sizes / LARGEST)
    traces, squares = traces / around, squares / around
    S, Q = float(traces.mean()), float(squares.mean())
    t2 = float(students_t.ppf((1 + CONFIDENCE) / 2, n - 1)) ** 2
    (ss, sq), (_, qq) = np.cov(traces, squares) / n * t2
    leading, middle = S**2 - ss, S * Q - sq
    if S <= 0 or leading <= 0:
        return NoiseScale()
    # leading u^2 - 2 middle u + Q^2 - qq <= 0, which u = Q / S fulfils.
    root = sqrt(max(middle**2 - leading * (Q**2 - qq), 0.0))
    ends = (middle + root) / leading, (middle - root) / leading
    low, high = (1 / u if u > 0 else inf for u in ends)
    return NoiseScale(S / Q if isfinite(high) else nan, low, high)


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
