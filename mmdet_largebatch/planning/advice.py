"""Warn of settings of a planned training, and compare its LR with published recipes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from mmdet.models.detectors import TwoStageDetector

from ..global_batch import (
    GlobalBatchTrainLoop,
    own_generator_message,
    rank_dependent_modules,
    remembering_message,
)
from ..optimizers import double_clip_message
from .dry_runner import DryRunner

if TYPE_CHECKING:
    from .plan import Plan

# Global batch and LR of published recipes for Mask R-CNN R50-FPN on COCO with SGD, momentum 0.9:
# MMDetection's model zoo; MLPerf training 3.1's reference points (128 and 256); AGVM (NeurIPS
# 2022).
PUBLISHED_SGD = ((16, 0.02), (128, 0.16), (256, 0.24), (512, 0.32))
# An LR that is off by more than this factor gets a warning.
FACTOR = 2


def advise(plan: 'Plan', runner: DryRunner, dataset: Any) -> None:
    """Add the published LR and the warnings to a plan.

    Args:
        plan (Plan): The plan; its ``lr_published`` and ``warnings`` are set.
        runner (DryRunner): The runner that it was made from.
        dataset (Any): The training dataset of the config.
    """
    length = f'The warmup of {plan.warmup_updates:,} updates is longer than'
    if plan.warmup_updates > plan.updates:
        plan.warnings.append(
            f'{length} the training of {plan.updates:,}: the LR never comes to {plan.lr:.4g}.'
        )
    elif plan.warmup_updates > plan.updates_per_epoch:
        plan.warnings.append(
            f'{length} an epoch of {plan.updates_per_epoch:,g}: was its length meant for a smaller '
            'global batch?'
        )
    double_clip = double_clip_message(runner.optim_wrapper)
    if double_clip:
        plan.warnings.append(double_clip)
    if isinstance(runner.train_loop, GlobalBatchTrainLoop):
        if plan.max_updates is not None:
            plan.warnings.append(
                f'train_cfg.max_updates={plan.max_updates:,} cuts it short of {plan.updates:,}.'
            )
        runner.model.train()
        for what, names in rank_dependent_modules(runner.model).items():
            rest = f' and {len(names) - 2} more' if len(names) > 2 else ''
            where = ', '.join(names[:2]) + rest
            plan.warnings.append(
                f'This training depends on the number of ranks: {what}, in {where}.'
            )
        # With --images the built dataset is another one.
        datasets = [dataset, runner.train_loop.dataloader.dataset]
        messages = remembering_message(datasets), own_generator_message(datasets)
        plan.warnings += filter(None, messages)
    if isinstance(runner.model, TwoStageDetector) and plan.optimizer in ('SGD', 'LAMB', 'LARS'):
        _compare_lr(plan)


def _compare_lr(plan: 'Plan') -> None:
    """Compare the LR with published ones for Mask R-CNN, interpolated between batches."""
    batches, lrs = zip((0, 0.0), *PUBLISHED_SGD, strict=True)
    if plan.optimizer != 'SGD':
        plan.lr_published = f'no published LR for {plan.optimizer} on Mask R-CNN is known'
    elif plan.global_batch > batches[-1]:
        plan.lr_published = (
            f'no published LR for SGD on Mask R-CNN is known beyond batch {batches[-1]}'
        )
    else:
        published = float(np.interp(plan.global_batch, batches, lrs))
        plan.lr_published = (
            f'published for SGD on Mask R-CNN: {published:.3g} at batch {plan.global_batch}'
        )
        if not published / FACTOR <= plan.lr <= published * FACTOR:
            plan.warnings.append(
                f'The LR of {plan.lr:.4g} is {plan.lr / published:.3g} times the {published:.3g} '
                f'of published recipes for SGD on Mask R-CNN at global batch {plan.global_batch}.'
            )
