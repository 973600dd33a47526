"""Warn about settings that deserve a second look."""

import numpy as np
from mmdet.models.detectors import TwoStageDetector

from ..global_batch import GlobalBatchTrainLoop, rank_dependent_modules
from ..optimizers import double_clip_message
from .dry_runner import DryRunner
from .schedule import Schedule

# Global batch and LR of published recipes for Mask R-CNN R50-FPN on COCO with SGD, momentum 0.9:
# MMDetection's model zoo; MLPerf training 3.1's reference points (the second and the third); AGVM
# (NeurIPS 2022).
PUBLISHED_SGD = ((16, 0.02), (128, 0.16), (256, 0.24), (512, 0.32))
# An LR that is off by more than this is warned about.
FACTOR = 2


def published_lr(global_batch: int) -> float | None:
    """LR of SGD for Mask R-CNN at a global batch, between published ones by straight lines.

    Args:
        global_batch (int): Images an update.

    Returns:
        float or None: The LR, None beyond the largest published batch.
    """
    batches, lrs = zip((0, 0.0), *PUBLISHED_SGD, strict=True)
    return float(np.interp(global_batch, batches, lrs)) if global_batch <= batches[-1] else None


def compare_lr(runner: DryRunner, lr: float, global_batch: int) -> tuple[str, str | None]:
    """Hold an LR against those of published recipes.

    Args:
        runner (DryRunner): The prepared runner.
        lr (float): The LR after the warmup.
        global_batch (int): Images an update.

    Returns:
        tuple[str, str or None]: What is published, empty where nothing is known about such a
        detector or optimizer; and a warning, if the LR is far from it.
    """
    optimizer = type(runner.optim_wrapper.optimizer).__name__
    if not isinstance(runner.model, TwoStageDetector) or optimizer not in ('SGD', 'LAMB', 'LARS'):
        return '', None
    if optimizer != 'SGD':
        return f'no published LR for {optimizer} on Mask R-CNN is known', None
    published = published_lr(global_batch)
    if published is None:
        largest = PUBLISHED_SGD[-1][0]
        return f'no published LR for SGD on Mask R-CNN is known beyond batch {largest}', None
    text = f'published for SGD on Mask R-CNN: {published:.3g} at batch {global_batch}'
    if published / FACTOR <= lr <= published * FACTOR:
        return text, None
    return text, (
        f'The LR of {lr:.4g} is {lr / published:.3g} times the {published:.3g} of published '
        f'recipes for SGD on Mask R-CNN at global batch {global_batch}.'
    )


def warnings_of(runner: DryRunner, schedule: Schedule, updates_per_epoch: float) -> list[str]:
    """Warnings that need no comparison with others' recipes.

    Args:
        runner (DryRunner): The prepared runner.
        schedule (Schedule): Its schedule.
        updates_per_epoch (float): Updates in an epoch.

    Returns:
        list[str]: One sentence or two each.
    """
    found = []
    if schedule.warmup > len(schedule.lrs):
        found.append(
            f'The warmup of {schedule.warmup:,} updates is longer than the training of '
            f'{len(schedule.lrs):,}: the LR never comes to {schedule.base_lr:.4g}.'
        )
    elif schedule.warmup > updates_per_epoch:
        found.append(
            f'The warmup of {schedule.warmup:,} updates is longer than an epoch of '
            f'{updates_per_epoch:,g}: was its length meant for a smaller global batch?'
        )
    double_clip = double_clip_message(runner.optim_wrapper)
    if double_clip:
        found.append(double_clip)
    loop = runner.train_loop
    if isinstance(loop, GlobalBatchTrainLoop):
        if loop.end < loop.max_iters:
            found.append(f'train_cfg.max_updates={loop.end:,} cuts it short of {loop.max_iters:,}.')
        for what, names in rank_dependent_modules(runner.model.train()).items():
            found.append(
                f'This training depends on the number of ranks: {what}, in {_some(names)}.'
            )
    return found


def _some(names: list[str]) -> str:
    rest = f' and {len(names) - 2} more' if len(names) > 2 else ''
    return ', '.join(names[:2]) + rest
