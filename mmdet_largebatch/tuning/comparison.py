"""Compare branches of one training by their losses on the same images.

Branches begin from one state and see the same images with the same random draws. Most of the noise
of the loss is therefore common to them, and cancels in the difference of two branches. The standard
error of that difference is taken from the means of blocks of images, since the differences of
neighbouring updates are correlated (the method of batch means: Law and Kelton, Simulation Modeling
and Analysis).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Blocks of images that the second half of a branch is cut into.
BLOCKS = 10
# A branch diverged if its loss is this many times the loss that the branches began with.
DIVERGED = 1.5
# The suggested LR is at most the smallest LR that diverged, divided by this.
EDGE_MARGIN = 2.0


@dataclass(frozen=True)
class Curve:
    """The losses of a branch.

    Args:
        value (float): The setting in which the branches differ: its LR, or its global batch.
        lr (float): LR.
        batch (int): Images of an update.
        losses (np.ndarray): Loss of each update, float64 of shape (updates,).
        broken (bool): True if the training stopped at a loss or gradient that is not finite.
    """

    value: float
    lr: float
    batch: int
    losses: np.ndarray
    broken: bool = False

    @property
    def images(self) -> np.ndarray:
        """np.ndarray: Images learnt from by the end of each update, shape (updates,)."""
        return self.batch * np.arange(1, len(self.losses) + 1)

    def block_means(self, edges: np.ndarray) -> np.ndarray:
        """Return the mean loss of each block of images.

        Args:
            edges (np.ndarray): Bounds of the blocks in images, shape (blocks + 1,).

        Returns:
            np.ndarray: Means, shape (blocks,). An update belongs to the block of its middle image.
        """
        block = np.digitize(self.images - self.batch / 2, edges) - 1
        return np.array([self.losses[block == index].mean() for index in range(len(edges) - 1)])


@dataclass(frozen=True)
class Compared:
    """A branch beside the best one.

    Args:
        curve (Curve): The branch.
        loss (float): Mean loss over the second half of its images; infinite if it is broken.
        difference (float): Its loss less that of the best branch, on the same images.
        error (float): Standard error of ``difference``, from the paired blocks.
        unpaired_error (float): Standard error without pairing, for comparison.
        diverged (bool): True if it is broken, or its loss grew.
        whole (bool): False if it was dropped before the end.
    """

    curve: Curve
    loss: float
    difference: float
    error: float
    unpaired_error: float
    diverged: bool
    whole: bool


def compare(curves: Sequence[Curve], against: float | None = None) -> list[Compared]:
    """Compare branches with the best of them, or with one of them.

    Args:
        curves (Sequence[Curve]): Branches, at least one.
        against (float, optional): Value of the branch to compare with. None for the branch with the
            lowest loss. Defaults to None.

    Returns:
        list[Compared]: The branches, by increasing value.
    """
    curves = sorted(curves, key=lambda curve: curve.value)
    images = max(_length(curve) for curve in curves)
    begin = _first_loss(curves)
    losses = [
        np.inf if curve.broken else float(_last_blocks(curve, _length(curve)).mean())
        for curve in curves
    ]
    grew = [not loss <= DIVERGED * begin for loss in losses]
    whole = [_length(curve) > images - curve.batch for curve in curves]
    every = range(len(curves))
    candidates = [index for index in every if whole[index] and not grew[index]]
    best = min(candidates or every, key=lambda index: losses[index])
    if against is not None:
        best = [curve.value for curve in curves].index(against)
    return [
        _beside(curve, curves[best], losses[index], grew[index], whole[index])
        for index, curve in enumerate(curves)
    ]


def _beside(curve: Curve, best: Curve, loss: float, diverged: bool, whole: bool) -> Compared:
    """Compare a branch with the best one, over the second half of the shorter of both."""
    difference, error, unpaired = np.inf, np.nan, np.nan
    if not (curve.broken or best.broken):
        end = min(_length(curve), _length(best))
        own, other = _last_blocks(curve, end), _last_blocks(best, end)
        difference, error = float((own - other).mean()), _standard_error(own - other)
        unpaired = float(np.hypot(_standard_error(own), _standard_error(other)))
    return Compared(curve, loss, difference, error, unpaired, diverged, whole)


def edge(compared: Sequence[Compared]) -> tuple[float | None, float | None]:
    """Bracket the edge of stability.

    Args:
        compared (Sequence[Compared]): Branches with several LRs.

    Returns:
        tuple[float or None, float or None]: The largest LR below the smallest one that diverged,
        and the latter. None where there is no such LR.
    """
    diverged = [one.curve.value for one in compared if one.diverged]
    high = min(diverged, default=None)
    stable = [one.curve.value for one in compared if high is None or one.curve.value < high]
    return max(stable, default=None), high


def suggested_lr(compared: Sequence[Compared]) -> float | None:
    """Suggest an LR: the largest within one standard error of the best, away from the edge.

    Args:
        compared (Sequence[Compared]): Branches with several LRs, compared with the best one.

    Returns:
        float, optional: The LR; None if all diverged.
    """
    _, high = edge(compared)
    limit = np.inf if high is None else high / EDGE_MARGIN * (1 + 1e-9)
    fits = [one for one in compared if one.whole and not one.diverged]
    # With no LR that far from the edge, the smallest one.
    fits = [one for one in fits if one.curve.value <= limit] or fits[:1]
    good = [one for one in fits if one.difference <= one.error] or fits
    return max((one.curve.value for one in good), default=None)


def largest_batch(compared: Sequence[Compared], tolerance: float) -> float:
    """Return the largest batch whose loss is within a tolerance of the smallest batch's.

    Args:
        compared (Sequence[Compared]): Branches with several batches, compared with the smallest.
        tolerance (float): Tolerated difference as a fraction of the smallest batch's loss.

    Returns:
        float: The batch. All smaller ones are within the tolerance too.
    """
    smallest, *larger = compared
    found = smallest.curve.value
    for one in larger:
        if one.diverged or one.difference > tolerance * smallest.loss:
            break
        found = one.curve.value
    return found


def _length(curve: Curve) -> int:
    return curve.batch * len(curve.losses)


def _first_loss(curves: Sequence[Curve]) -> float:
    """Return the loss at the start: a tenth of the branch that has moved least."""
    curve = curves[0]
    return float(curve.losses[: max(1, len(curve.losses) // BLOCKS)].mean())


def _last_blocks(curve: Curve, end: int) -> np.ndarray:
    """Return the means of the blocks in the second half of the images up to ``end``."""
    return curve.block_means(np.linspace(end / 2, end, BLOCKS + 1))


def _standard_error(blocks: np.ndarray) -> float:
    """Return the standard error of the mean of blocks, without their linear trend.

    Losses fall during a branch, and two branches part. That is no noise.
    """
    places = np.arange(len(blocks))
    rest = blocks - np.polyval(np.polyfit(places, blocks, 1), places)
    return float(np.sqrt((rest**2).sum() / (len(blocks) - 2) / len(blocks)))
