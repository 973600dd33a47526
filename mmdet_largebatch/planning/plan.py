"""Compute the figures of a training from its config."""

from dataclasses import dataclass, field
from math import ceil

import numpy as np
from mmengine.config import Config
from torch.utils.data import DataLoader

from ..compat import accumulative_counts
from ..errors import SettingError
from ..global_batch import GlobalBatchTrainLoop
from ..optimizers import LAMB
from .advice import compare_lr, warnings_of
from .dry_runner import DryRunner, dry_run
from .optimizer import Backend, GroupSetting, group_settings, lamb_backend, state_bytes, trainable
from .schedule import find_schedule


@dataclass
class Decay:
    """A step of the LR.

    Args:
        update (int): The first update with the lower LR, counted from 0.
        epoch (float): Epochs done by then.
        lr (float): The LR from then on.
    """

    update: int
    epoch: float
    lr: float


@dataclass
class Plan:
    """The figures of a training; images, updates and bytes are totals.

    Args:
        ranks (int): Number of ranks.
        ranks_from (str): Where that number comes from.
        images (int): Images to train on in an epoch, after the dataset's filter.
        micro_batch (int): Images that a rank computes at a time.
        micro_batches (int): Micro-batches of an update, over all ranks.
        micro_batches_per_rank (tuple[int, int]): The fewest and the most that a rank computes.
        global_batch (int): Images of an update.
        epochs (int): Epochs.
        updates_per_epoch (float): Updates in an epoch; a whole number but for MMEngine's
            ``accumulative_counts``, whose windows may straddle epochs.
        updates (int): Updates in all.
        lr (float): The LR that the schedule is a factor of.
        lr_from (str): The rule that it comes from.
        lr_published (str): What published recipes have, empty if nothing is known.
        schedule (str): What sets the LR.
        first_lr (float): The LR of the first update.
        last_lr (float): The LR of the last.
        warmup_updates (int): Length of the warmup, 0 for none.
        warmup_epochs (float): The same as a share of an epoch.
        decays (list[Decay]): Where the LR decays in steps.
        gradual_decay (bool): Whether it decays little by little instead.
        optimizer (str): Class of the optimizer.
        backend (Backend, optional): What LAMB runs on, None for another optimizer.
        groups (int): Number of parameter groups that train something.
        group_settings (list[GroupSetting]): What they are trained with.
        tensors (int): Tensors that are trained.
        parameters (int): Their elements.
        state_bytes (int, optional): Optimizer state on each rank, None if it is not known.
        gradient_bytes (int): What each rank puts into the all-reduce of an update, 0 on one rank.
        exact_sum (bool): Whether gradients are added as integers.
        warnings (list[str]): What deserves a second look.
        lrs (np.ndarray): LR of each update, float64 of shape (updates,).
    """

    ranks: int
    ranks_from: str
    images: int
    micro_batch: int
    micro_batches: int
    micro_batches_per_rank: tuple[int, int]
    global_batch: int
    epochs: int
    updates_per_epoch: float
    updates: int
    lr: float
    lr_from: str
    lr_published: str
    schedule: str
    first_lr: float
    last_lr: float
    warmup_updates: int
    warmup_epochs: float
    decays: list[Decay]
    gradual_decay: bool
    optimizer: str
    backend: Backend | None
    groups: int
    group_settings: list[GroupSetting]
    tensors: int
    parameters: int
    state_bytes: int | None
    gradient_bytes: int
    exact_sum: bool
    warnings: list[str]
    lrs: np.ndarray = field(repr=False)


def make_plan(cfg: Config, ranks: int | None = None, images: int | None = None) -> Plan:
    """Work out what a training will be. No data but the annotation file is read.

    It must not be called in a process that is a rank of a training.

    Args:
        cfg (Config): The training's config; it is not changed.
        ranks (int, optional): Number of ranks, >= 1. None takes what the recipe is made for: global
            batch / micro-batch, or mmdet's ``auto_scale_lr.base_batch_size`` / micro-batch.
        images (int, optional): Images to train on, after the dataset's filter. None builds the
            dataset and counts.

    Returns:
        Plan: The figures.

    Raises:
        SettingError: If the training would be refused, in the words that it would be refused in, or
            it cannot be planned.
    """
    ranks, ranks_from = (ranks, '--gpus') if ranks is not None else own_ranks(cfg)
    with dry_run(cfg, ranks, images) as runner:
        return _plan(runner, ranks, ranks_from, cfg)


def own_ranks(cfg: Config) -> tuple[int, str]:
    """Return the number of ranks that a recipe is made for.

    Args:
        cfg (Config): The config.

    Returns:
        tuple[int, str]: The number, 1 where the config says none, and where it comes from.
    """
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    for section, key in (('train_cfg', 'global_batch_size'), ('auto_scale_lr', 'base_batch_size')):
        made_for = (cfg.get(section) or {}).get(key)
        if not isinstance(batch, int) or not isinstance(made_for, int):
            continue
        if batch > 0 < made_for and made_for % batch == 0:
            return made_for // batch, f'{section}.{key} / train_dataloader.batch_size'
    return 1, 'the config says no number that fits'


def _plan(runner: DryRunner, ranks: int, ranks_from: str, cfg: Config) -> Plan:
    loop, wrapper = runner.train_loop, runner.optim_wrapper
    optimizer, batch = wrapper.optimizer, _micro_batch(loop.dataloader)
    if isinstance(loop, GlobalBatchTrainLoop):
        accumulated, micro_batches = 1, loop.sampler.micro_batches
        exact_sum = loop.exact_sum
    else:
        exact_sum = False
        accumulated = accumulative_counts(wrapper)
        micro_batches = ranks * accumulated
    global_batch = batch * micro_batches
    per_epoch = len(loop.dataloader) / accumulated
    per_epoch = int(per_epoch) if per_epoch.is_integer() else per_epoch
    updates = ceil(loop.max_iters / accumulated)

    schedule = find_schedule(runner, accumulated)
    published, lr_warning = compare_lr(runner, schedule.base_lr, global_batch)
    warnings = warnings_of(runner, schedule, per_epoch) + ([lr_warning] if lr_warning else [])
    backend = None
    if isinstance(optimizer, LAMB):
        backend = lamb_backend(optimizer, cfg.optim_wrapper.optimizer.get('backend', 'auto'))
    params, settings = trainable(optimizer), group_settings(optimizer)
    return Plan(
        ranks=ranks,
        ranks_from=ranks_from,
        images=len(loop.dataloader.dataset),
        micro_batch=batch,
        micro_batches=micro_batches,
        micro_batches_per_rank=(micro_batches // ranks, ceil(micro_batches / ranks)),
        global_batch=global_batch,
        epochs=loop.max_epochs,
        updates_per_epoch=per_epoch,
        updates=updates,
        lr=schedule.base_lr,
        lr_from=schedule.lr_from,
        lr_published=published,
        schedule=schedule.made_by,
        first_lr=float(schedule.lrs[0]),
        last_lr=float(schedule.lrs[-1]),
        warmup_updates=schedule.warmup,
        warmup_epochs=schedule.warmup / per_epoch,
        decays=[
            Decay(update, update / per_epoch, float(schedule.lrs[update]))
            for update in schedule.decays
        ],
        gradual_decay=schedule.gradual,
        optimizer=type(optimizer).__name__,
        backend=backend,
        groups=sum(setting.groups for setting in settings),
        group_settings=settings,
        tensors=len(params),
        parameters=sum(p.numel() for p in params),
        state_bytes=state_bytes(optimizer),
        gradient_bytes=sum(
            p.numel() * (8 if exact_sum else p.element_size()) for p in params if ranks > 1
        ),
        exact_sum=exact_sum,
        warnings=warnings,
        lrs=schedule.lrs,
    )


def _micro_batch(loader: DataLoader) -> int:
    # mmdet's aspect-ratio batches come from a batch sampler: the loader's own size is None.
    batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
    if batch is None:
        kind = type(loader.batch_sampler).__name__
        raise SettingError(
            f'train_dataloader.batch_sampler.type={kind}. Must have a batch_size to be planned.'
        )
    return batch
