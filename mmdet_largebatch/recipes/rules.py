"""Rules that carry a setting from one global batch to another, as pure functions.

``ratio`` is the new global batch divided by the old one.
"""

import math

import numpy as np

from ..planning.advice import PUBLISHED_SGD
from ..schedulers.scaling import GOYAL, scale_factor

# Global batch, and updates of the warmup, of public trainings of Mask R-CNN with SGD on COCO:
# MMDetection's model zoo, and MLPerf training 3.1's reference points.
PUBLISHED_WARMUP = ((16, 500), (128, 625), (256, 1800))
# No training of the public logs at batch 128 or above has fewer updates of warmup.
WARMUP_FLOOR = 500
# Digits of an LR or a momentum in a written config.
DIGITS = 6

SGD_SOURCE = f'{GOYAL}; above batch 128 MLPerf training 3.1 and AGVM (arXiv 2210.11078)'
WARMUP_SOURCE = 'public logs of Mask R-CNN: 500 updates at 16, 625 at 128, 1,800 at 256'
EMA_SOURCE = 'Busbridge et al. 2023, arXiv 2307.13813'
INTERVAL_SOURCE = "detectron2's auto_scale_workers"


def rounded(value: float) -> float:
    """Round a number to the digits of a written config.

    Args:
        value (float): Any number.

    Returns:
        float: The number with 6 significant digits.
    """
    return float(f'{value:.{DIGITS}g}')


def scaled_lr(lr: float, base: int, new: int, rule: str) -> float:
    """Scale an LR by the linear or the square-root rule.

    Args:
        lr (float): LR at the global batch ``base``.
        base (int): Images of an update that the LR is meant for.
        new (int): Images of an update.
        rule (str): ``'linear'`` or ``'sqrt'``.

    Returns:
        float: The LR.

    Example:
        >>> scaled_lr(0.02, 16, 128, 'linear'), scaled_lr(0.0001, 16, 64, 'sqrt')
        (0.16, 0.0002)
    """
    return rounded(lr * scale_factor(rule, new, base))


def two_stage_sgd_lr(lr: float, base: int, new: int) -> float:
    """Scale the LR of SGD for a two-stage detector: linear to 128, then as published.

    Published trainings of Mask R-CNN have 0.02 at 16, 0.16 at 128, 0.24 at 256 and 0.32 at 512.
    Between these the LR is interpolated; above 512 it is that of 512.

    Args:
        lr (float): LR at the global batch ``base``.
        base (int): Images of an update that the LR is meant for.
        new (int): Images of an update.

    Returns:
        float: The LR.

    Example:
        >>> [two_stage_sgd_lr(0.02, 16, batch) for batch in (8, 128, 256, 512)]
        [0.01, 0.16, 0.24, 0.32]
    """
    batches, lrs = zip((0, 0.0), *PUBLISHED_SGD, strict=True)
    before, after = np.interp([base, new], batches, lrs)
    return rounded(lr * float(after / before))


def warmup_updates(updates: int, base: int, new: int) -> int:
    """Carry the length of a warmup: the same number of images, and at least a floor of updates.

    The floor is the old length, at most 500 updates, times the growth of the warmup in public
    trainings: 500 updates at batch 16, 625 at 128 and 1,800 at 256, interpolated.

    Args:
        updates (int): Length of the warmup in updates at the global batch ``base``; 0 for none.
        base (int): Images of an update in the old recipe.
        new (int): Images of an update in the new recipe.

    Returns:
        int: Length in updates.

    Example:
        >>> warmup_updates(500, 16, 128), warmup_updates(1000, 256, 64)
        (625, 4000)
    """
    batches, lengths = zip(*PUBLISHED_WARMUP, strict=True)
    before, after = np.interp([base, new], batches, lengths)
    floor = min(updates, WARMUP_FLOOR) * float(after / before)
    return round(max(updates * base / new, floor))


def ema_momentum(momentum: float, ratio: float) -> float:
    """Carry the momentum of an EMA: the weight of an update in the average.

    After ``ratio`` old updates a share ``(1 - momentum) ** ratio`` of the old average is left. One
    new update leaves the same share. To first order the momentum is multiplied by ``ratio``.

    Args:
        momentum (float): Weight of the current parameters, as of MMEngine's ``EMAHook``, in [0, 1].
        ratio (float): New batch / old batch.

    Returns:
        float: The momentum, ``1 - (1 - momentum) ** ratio``.

    Example:
        >>> ema_momentum(0.0001, 2)
        0.00019999
    """
    if momentum >= 1:
        return momentum
    return rounded(-math.expm1(ratio * math.log1p(-momentum)))


def carried_updates(iterations: float, ratio: float) -> int:
    """Carry a number of iterations: the same number of images.

    Args:
        iterations (float): Iterations in the old recipe, above 0.
        ratio (float): New batch / old batch.

    Returns:
        int: Updates, at least 1.

    Example:
        >>> carried_updates(4000, 2), carried_updates(3, 8)
        (2000, 1)
    """
    return max(1, round(iterations / ratio))
