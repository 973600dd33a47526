"""Count the evaluations and the checkpoints of a training."""

from bisect import bisect
from math import ceil, floor

from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop

from ..global_batch import GlobalBatchTrainLoop
from ..utils.runner import find_hook
from .dry_runner import DryRunner


def count_evaluations(runner: DryRunner) -> int:
    """Count the evaluations, by the interval that holds after each epoch."""
    loop = runner.train_loop
    if runner.cfg.get('val_dataloader') is None:
        return 0
    end = _last_iteration(loop)
    count = 0
    for epoch in range(1, ceil(end / len(loop.dataloader)) + 1):
        # As MMEngine decides it once the epoch is done.
        interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, epoch + 1) - 1]
        due = epoch >= loop.val_begin and epoch % interval == 0
        at_end = epoch == loop.max_epochs >= loop.val_begin
        cut = end < loop.max_iters and epoch * len(loop.dataloader) >= end
        count += due or at_end or cut
    return count


def count_checkpoints(runner: DryRunner) -> int:
    """Count the checkpoints by interval, and the last one."""
    loop, hook = runner.train_loop, find_hook(runner, CheckpointHook)
    if hook is None or hook.interval <= 0:
        return 0
    done = _last_iteration(loop) / (len(loop.dataloader) if hook.by_epoch else 1)
    saved = range(hook.save_begin or hook.interval, floor(done) + 1, hook.interval)
    return len(saved) + (hook.save_last and (not saved or saved[-1] < done))


def count_validation_images(cfg: Config) -> int | None:
    """Count the images of an evaluation, None without one. Reads the annotation file."""
    if cfg.get('val_dataloader') is None:
        return None
    return len(DATASETS.build(cfg.val_dataloader.dataset))


def _last_iteration(loop: EpochBasedTrainLoop) -> int:
    """Return the iterations that are done, fewer than those of the schedule with max_updates."""
    return loop.end if isinstance(loop, GlobalBatchTrainLoop) else loop.max_iters
