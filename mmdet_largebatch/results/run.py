"""A training as read from its logs, and the figures derived from them."""

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class LoggedUpdate:
    """One line of the training log.

    Args:
        update (int): The optimizer update, counted from 1.
        epoch (int): The epoch it is in, counted from 1.
        loss (float, optional): The loss, as logged: a mean over the last iterations.
        seconds (float, optional): Seconds an update, a mean over the same iterations.
    """

    update: int
    epoch: int
    loss: float | None
    seconds: float | None


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: ``coco/bbox_mAP`` and ``coco/segm_mAP`` in [0, 1], None where not measured.

    Args:
        epoch (int): The epoch that it followed, counted from 1.
        box_ap (float, optional): Box AP.
        mask_ap (float, optional): Mask AP.
        found_nothing (bool): Whether nothing was detected. Defaults to False.
    """

    epoch: int
    box_ap: float | None
    mask_ap: float | None
    found_nothing: bool = False


@dataclass(frozen=True)
class Run:
    """A training, with all its starts. Values that its logs lack are None.

    Args:
        work_dir (Path): Its work folder.
        optimizer (str, optional): Type of the optimizer.
        lr (float, optional): LR after the warmup, as configured and scaled to the batch.
        global_batch (int, optional): Images an update.
        ranks (tuple[int, ...]): Number of processes, once for each change over the starts.
        warmup_updates (int, optional): Length of the warmup in updates, 0 without one.
        epochs (int): Epochs to train.
        seed (int, optional): The seed.
        updates_per_epoch (int, optional): Updates in one epoch.
        last_start_ended_epochs (int): The last epoch that the newest start saved a checkpoint of.
        evaluates (bool): Whether an evaluation follows the last epoch.
        updates (list[LoggedUpdate]): The updates that were logged, in order.
        evaluations (list[Evaluation]): The evaluations, in order.
        diverged_at (int, optional): The update at which :class:`DivergenceHook` stopped the run.
        preempted (bool): Whether :class:`PreemptionHook` ended the newest start.
        rollbacks (int): How often :class:`DivergenceHook` took the run back.
        recipe (dict[str, Any]): The config without the seed and without what is of the place and
            the start, such as ``work_dir`` and ``resume``. Runs of one recipe differ in the seed.
        notes (tuple[str, ...]): What could not be read, a sentence each.
        max_updates (int, optional): Updates after which the run was to be cut short, with an
            evaluation. None where it was to reach its last epoch.
        ended (bool): Whether ``train.py`` recorded that the newest start came to its end.
        stopped_at (int, optional): The epoch at which early stopping ended the newest start.
    """

    work_dir: Path
    optimizer: str | None
    lr: float | None
    global_batch: int | None
    ranks: tuple[int, ...]
    warmup_updates: int | None
    epochs: int
    seed: int | None
    updates_per_epoch: int | None
    last_start_ended_epochs: int
    evaluates: bool
    updates: list[LoggedUpdate]
    evaluations: list[Evaluation]
    diverged_at: int | None
    preempted: bool
    rollbacks: int
    recipe: dict[str, Any]
    notes: tuple[str, ...] = ()
    max_updates: int | None = None
    ended: bool = False
    stopped_at: int | None = None

    @property
    def last_epoch(self) -> int:
        """int: The epoch that ends the run, a short one where the run is cut within it."""
        if self.stopped_at is not None:
            return self.stopped_at
        if self.max_updates is None or not self.updates_per_epoch:
            return self.epochs
        return min(self.epochs, math.ceil(self.max_updates / self.updates_per_epoch))

    @property
    def nan_at(self) -> int | None:
        """int, optional: The first logged update from which no loss is finite any more."""
        first = None
        for logged in reversed(self.updates):
            if logged.loss is None or math.isfinite(logged.loss):
                break
            first = logged.update
        return first

    @property
    def epochs_done(self) -> int:
        """int: Epochs that were finished, a short one at the end counted as one."""
        done = self.evaluations[-1].epoch if self.evaluations else 0
        if self.updates:
            done = max(done, self.updates[-1].epoch - 1)
            if self.updates_per_epoch:
                done = max(done, self.updates[-1].update // self.updates_per_epoch)
        # The last updates of an epoch may be unlogged; nothing is computed again after the last.
        if self.ended or self.last_start_ended_epochs == self.last_epoch:
            done = self.last_epoch
        return min(done, self.last_epoch)

    @property
    def epochs_trained(self) -> float:
        """float: Epochs that were finished, with the part of one where the run was cut short."""
        ended = self.stopped_at is None and self.epochs_done == self.last_epoch
        if ended and self.max_updates is not None and self.updates_per_epoch:
            return round(self.max_updates / self.updates_per_epoch, 2)
        return self.epochs_done

    @property
    def status(self) -> str:
        """str: ``'diverged'``, ``'nan'``, ``'done'``, ``'preempted'`` or ``'unfinished'``."""
        if self.diverged_at is not None:
            return 'diverged'
        if self.nan_at is not None:
            return 'nan'
        evaluated = self.evaluations[-1].epoch if self.evaluations else 0
        last = self.last_epoch
        if self.ended or (self.epochs_done == last and (evaluated == last or not self.evaluates)):
            return 'done'
        return 'preempted' if self.preempted else 'unfinished'

    @property
    def status_text(self) -> str:
        """str: The status with what belongs to it."""
        text = self.status
        if text == 'diverged':
            text += f' at update {self.diverged_at}'
        elif text == 'nan':
            text += f' from update {self.nan_at}'
        elif text == 'done' and self.stopped_at is not None:
            text += f', stopped early at epoch {self.stopped_at}'
        elif text == 'done' and self.max_updates is not None:
            text += f', cut at update {self.max_updates}'
        elif text != 'done' and self.epochs_done == self.last_epoch:
            text += ', last epoch not evaluated'
        if self.evaluations and self.evaluations[-1].found_nothing:
            text += ', the last evaluation found nothing'
        if self.rollbacks:
            text += f', {self.rollbacks} rollback{"s" if self.rollbacks > 1 else ""}'
        return text

    @property
    def box_ap(self) -> float | None:
        """float, optional: Box AP of the last evaluation."""
        return self.evaluations[-1].box_ap if self.evaluations else None

    @property
    def mask_ap(self) -> float | None:
        """float, optional: Mask AP of the last evaluation."""
        return self.evaluations[-1].mask_ap if self.evaluations else None

    @property
    def ap_epoch(self) -> int | None:
        """int, optional: The epoch of the last evaluation."""
        return self.evaluations[-1].epoch if self.evaluations else None

    @property
    def training_seconds(self) -> float | None:
        """float, optional: Sum of the iteration times, up to the last update that was logged.

        Each logged time, a mean, stands for the updates since the line before it. Evaluations,
        checkpoints at the end of an epoch, starts, and updates that were computed again later are
        not in it. None where the log of the first epoch or a time is missing.
        """
        times = [logged.seconds for logged in self.updates if logged.seconds is not None]
        if not times or len(times) < len(self.updates) or self.updates[0].epoch > 1:
            return None
        ends = [logged.update for logged in self.updates]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        return sum(count * time for count, time in zip(counts, times, strict=True))

    @property
    def images_per_second(self) -> float | None:
        """float, optional: The global batch over the median of the logged times of an update."""
        times = [logged.seconds for logged in self.updates if logged.seconds]
        return self.global_batch / median(times) if times and self.global_batch else None
