"""Compare branches of one training by their losses on the same images.

Branches begin from one state and see the same images with the same random draws. Most of the noise
of the loss is therefore common to them, and cancels in the difference of two branches. The standard
error of that difference is taken from the means of blocks of images, since the differences of
neighbouring updates are correlated (batch means: Law and Kelton, Simulation Modeling and Analysis).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Blocks of images that losses are compared in.
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
        decayed (int): The last updates, which have a lower LR. Defaults to 0.
        broken (bool): True if the training stopped at a loss or gradient that is not finite.
            Defaults to False.
    """

    value: float
    lr: float
    batch: int
    losses: np.ndarray
    decayed: int = 0
    broken: bool = False

    @property
    def images(self) -> np.ndarray:
        """np.ndarray: Images learnt from by the end of each update, shape (updates,)."""
        return self.batch * np.arange(1, len(self.losses) + 1)

    @property
    def constant(self) -> np.ndarray:
        """np.ndarray: Losses of the updates with the branch's LR."""
        return self.losses[: len(self.losses) - self.decayed]

    def blocks(self) -> np.ndarray:
        """Return the means of the blocks of images in which branches are compared.

        Returns:
            np.ndarray: Means over equal numbers of images, shape (10,), of the second half of the
            updates after the LR decay, or of all updates without one. An update belongs to the
            block of its middle image.
        """
        end = self.batch * len(self.losses)
        begin = end - self.batch * (self.decayed or len(self.losses)) / 2
        edges = np.linspace(begin, end, BLOCKS + 1)
        block = np.digitize(self.images - self.batch / 2, edges) - 1
        return np.array([self.losses[block == index].mean() for index in range(BLOCKS)])


@dataclass(frozen=True)
class Compared:
    """A branch beside the best one.

    Args:
        curve (Curve): The branch.
        loss (float): Mean loss over its blocks; infinite if it diverged.
        difference (float): Its loss less that of the best branch, on the same images.
        error (float): Standard error of ``difference``, from the paired blocks.
        unpaired_error (float): Standard error without pairing, for comparison.
        diverged (bool): True if the branch diverged.
        whole (bool): False if it was dropped before the end. Defaults to True.
    """

    curve: Curve
    loss: float
    difference: float
    error: float
    unpaired_error: float
    diverged: bool
    whole: bool = True


def start_loss(curves: Sequence[Curve]) -> float:
    """Return the loss that branches began with.

    Args:
        curves (Sequence[Curve]): Branches.

    Returns:
        float: Mean over the first tenth of the updates with its LR, of the branch with the lowest
        value that is not broken. NaN if all are broken.
    """
    whole = [curve for curve in curves if not curve.broken]
    if not whole:
        return np.nan
    lowest = min(whole, key=lambda curve: curve.value).constant
    return float(lowest[: max(1, len(lowest) // 10)].mean())


def diverged(curves: Sequence[Curve]) -> list[bool]:
    """Find the branches that diverged.

    A branch diverged if it is broken, or if its mean loss over the second half of the updates with
    its LR is 1.5 times the loss at the start (:func:`start_loss`).

    Args:
        curves (Sequence[Curve]): Branches.

    Returns:
        list[bool]: One for each branch.
    """
    limit = DIVERGED * start_loss(curves)
    return [
        curve.broken or not curve.constant[len(curve.constant) // 2 :].mean() <= limit
        for curve in curves
    ]


def compare(curves: Sequence[Curve], against: float | None = None) -> list[Compared]:
    """Compare branches of the same number of images with the best of them, or with one of them.

    Args:
        curves (Sequence[Curve]): Branches, at least one.
        against (float, optional): Value of the branch to compare with. None for the branch with the
            lowest loss. Defaults to None.

    Returns:
        list[Compared]: The branches, by increasing value.
    """
    curves = sorted(curves, key=lambda curve: curve.value)
    bad = dict(zip((curve.value for curve in curves), diverged(curves), strict=True))
    blocks = {curve.value: curve.blocks() for curve in curves if not bad[curve.value]}
    if against is None and blocks:
        against = min(blocks, key=lambda value: blocks[value].mean())
    compared = []
    for curve in curves:
        loss, difference, error, unpaired = np.inf, np.inf, np.nan, np.nan
        if curve.value in blocks:
            own = blocks[curve.value]
            loss = float(own.mean())
            if against in blocks:
                best = blocks[against]
                difference, error = float((own - best).mean()), _standard_error(own - best)
                unpaired = float(np.hypot(_standard_error(own), _standard_error(best)))
        compared.append(Compared(curve, loss, difference, error, unpaired, bad[curve.value]))
    return compared


def edge(compared: Sequence[Compared]) -> tuple[float | None, float | None]:
    """Bracket the edge of stability.

    Args:
        compared (Sequence[Compared]): Branches with several LRs.

    Returns:
        tuple[float or None, float or None]: The largest LR below the smallest one that diverged,
        and the latter. None where there is no such LR.
    """
    high = min((one.curve.value for one in compared if one.diverged), default=None)
    stable = [one.curve.value for one in compared if high is None or one.curve.value < high]
    return max(stable, default=None), high


def suggested_lr(compared: Sequence[Compared]) -> float | None:
    """Suggest an LR: the largest within one standard error of the best, away from the edge.

    Args:
        compared (Sequence[Compared]): Branches with several LRs, compared with the best one.

    Returns:
        float, optional: The LR; None if no branch below the edge was trained to its end.
    """
    low, high = edge(compared)
    limit = np.inf if high is None else high / EDGE_MARGIN * (1 + 1e-9)
    below = [one for one in compared if low is not None and one.curve.value <= low]
    fits = [one for one in below if one.whole]
    # With no LR that far from the edge, the smallest one.
    fits = [one for one in fits if one.curve.value <= limit] or fits[:1]
    good = [one for one in fits if one.difference <= one.error] or fits
    return max((one.curve.value for one in good), default=None)


def largest_batch(compared: Sequence[Compared], tolerance: float) -> float | None:
    """Return the largest batch whose loss is within a tolerance of the smallest batch's.

    This is the measure of the critical batch size of Merrill et al. 2025 (arXiv 2505.23971).

    Args:
        compared (Sequence[Compared]): Branches with several batches, compared with the smallest.
        tolerance (float): Tolerated difference as a fraction of the smallest batch's loss.

    Returns:
        float, optional: The batch. All smaller ones are within the tolerance too. None if the
        smallest batch diverged.
    """
    smallest, *larger = compared
    if smallest.diverged:
        return None
    found = smallest.curve.value
    for one in larger:
        if one.diverged or not one.difference <= tolerance * smallest.loss:
            break
        found = one.curve.value
    return found


def _standard_error(blocks: np.ndarray) -> float:
    """Return the standard error of the mean of blocks, without their linear trend.

    Losses fall during a branch, and two branches part. That is no noise.
    """
    places = np.arange(len(blocks))
    rest = blocks - np.polyval(np.polyfit(places, blocks, 1), places)
    return float(np.sqrt((rest**2).sum() / (len(blocks) - 2) / len(blocks)))
