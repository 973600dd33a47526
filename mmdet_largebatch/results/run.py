"""A training run, and the figures derived from its logs."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ..utils.record import FINISHED


class LoggedUpdate(NamedTuple):
    """One line of the training log.

    Args:
        update (int): Optimizer update, counted from 1.
        epoch (int): Epoch of the update, counted from 1.
        loss (float, optional): Loss, a mean over the iterations since the line before.
        seconds (float, optional): Time of an update in seconds, a mean over the same iterations.
        waited (float, optional): The part of it in which the loop waited for data. Under
            :class:`GlobalBatchTrainLoop`, for the first micro-batch alone. Defaults to None.
    """

    update: int
    epoch: int
    loss: float | None
    seconds: float | None
    waited: float | None = None


class Evaluation(NamedTuple):
    """One evaluation. APs are COCO's mAP in [0, 1]; None if not measured.

    Args:
        epoch (int): Epoch before the evaluation, counted from 1.
        box_ap (float, optional): Box AP.
        mask_ap (float, optional): Mask AP.
        found_nothing (bool): True if nothing was detected. Defaults to False.
        seconds (float, optional): Mean time of a batch on a rank, in seconds. Defaults to None.
    """

    epoch: int
    box_ap: float | None
    mask_ap: float | None
    found_nothing: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class Run:
    """A training run with all its restarts. Values missing from the logs are None.

    Args:
        work_dir (Path): Work folder.
        optimizer (str, optional): Type of the optimizer.
        lr (float, optional): LR after the warmup, scaled to the batch.
        global_batch (int, optional): Images per update.
        ranks (tuple[int, ...]): Number of ranks, one entry for each change over the restarts.
        warmup_updates (int, optional): Length of the warmup in updates, 0 for none.
        epochs (int): Epochs to train.
        seed (int, optional): Seed.
        updates_per_epoch (int, optional): Updates per epoch.
        evaluates (bool): True if the last epoch is evaluated.
        updates (list[LoggedUpdate]): Logged updates, in order.
        evaluations (list[Evaluation]): Evaluations, in order.
        recipe (dict): Config without the seed, the paths and the launch settings. Runs with the
            same recipe differ only in the seed.
        max_updates (int, optional): ``train_cfg.max_updates``; None if the run is not cut short.
        ended (dict): How the newest start ended, as in ``largebatch.json``; empty if it did not.
        saved_epochs (int): Last epoch with a checkpoint, in a stock run. Defaults to 0.
        rollbacks (int): Rollbacks by :class:`DivergenceHook`. Defaults to 0.
        notes (tuple[str, ...]): Sentences on values that could not be read.
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
    evaluates: bool
    updates: list[LoggedUpdate]
    evaluations: list[Evaluation]
    recipe: dict[str, Any]
    max_updates: int | None = None
    ended: dict[str, Any] = field(default_factory=dict)
    saved_epochs: int = 0
    rollbacks: int = 0
    notes: tuple[str, ...] = ()

    @property
    def last_epoch(self) -> int:
        """int: Last epoch of the run, which may be a part of an epoch."""
        if self.ended.get('how') == 'stopped early':
            return self.ended['epoch']
        if self.max_updates is None or not self.updates_per_epoch:
            return self.epochs
        return min(self.epochs, math.ceil(self.max_updates / self.updates_per_epoch))

    @property
    def nan_at(self) -> int | None:
        """int, optional: Logged update from which the loss is not finite until the end."""
        first = None
        for logged in reversed(self.updates):
            if logged.loss is None or math.isfinite(logged.loss):
                break
            first = logged.update
        return first

    @property
    def epochs_done(self) -> int:
        """int: Epochs finished; a last epoch that was cut short counts as one."""
        if self.ended.get('how') in FINISHED or self.saved_epochs == self.last_epoch:
            return self.last_epoch
        done = self.ap_epoch or 0
        if self.updates:
            # The last updates of an epoch may not be logged.
            done = max(done, self.updates[-1].epoch - 1)
            if self.updates_per_epoch:
                done = max(done, self.updates[-1].update // self.updates_per_epoch)
        return min(done, self.last_epoch)

    @property
    def epochs_trained(self) -> float:
        """float: Epochs finished, with the fraction of a last epoch that was cut short."""
        cut = self.ended.get('how') != 'stopped early' and self.epochs_done == self.last_epoch
        if cut and self.max_updates is not None and self.updates_per_epoch:
            return round(self.max_updates / self.updates_per_epoch, 2)
        return self.epochs_done

    @property
    def status(self) -> str:
        """str: ``'diverged'``, ``'nan'``, ``'done'``, ``'preempted'`` or ``'unfinished'``."""
        how = self.ended.get('how')
        if how == 'diverged':
            return how
        if self.nan_at is not None:
            return 'nan'
        last = self.last_epoch
        evaluated = self.ap_epoch == last or not self.evaluates
        if how in FINISHED or (self.epochs_done == last and evaluated):
            return 'done'
        return 'preempted' if how == 'preempted' else 'unfinished'

    @property
    def status_text(self) -> str:
        """str: Status with its update or epoch."""
        text = self.status
        if text == 'diverged':
            text += f' at update {self.ended["update"]}'
        elif text == 'nan':
            text += f' from update {self.nan_at}'
        elif text == 'done' and self.ended.get('how') == 'stopped early':
            text += f', stopped early at epoch {self.last_epoch}'
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
        """int, optional: Epoch of the last evaluation."""
        return self.evaluations[-1].epoch if self.evaluations else None

    @property
    def training_seconds(self) -> float | None:
        """float, optional: Sum of the iteration times, up to the last logged update.

        Each logged time is a mean and counts for the updates since the line before. Evaluations,
        checkpoints between epochs, startup and recomputed updates are not included. None if the
        log of the first epoch or a time is missing.
        """
        times = [logged.seconds for logged in self.updates if logged.seconds is not None]
        if not times or len(times) < len(self.updates) or self.updates[0].epoch > 1:
            return None
        ends = [logged.update for logged in self.updates]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        return sum(count * time for count, time in zip(counts, times, strict=True))

    @property
    def images_per_second(self) -> float | None:
        """float, optional: Global batch / median logged time of an update."""
        times = [logged.seconds for logged in self.updates if logged.seconds]
        return self.global_batch / median(times) if times and self.global_batch else None
