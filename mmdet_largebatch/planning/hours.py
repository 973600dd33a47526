"""Compute the hours of a training on several numbers of GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from mmengine.config import Config

from .plan import Plan
from .update_time import BACKWARD, Times, UpdateTime, update_time

# A loader that takes more than this share of the time is named.
SLOW_LOADER = 0.05


@dataclass(frozen=True)
class Row:
    """A training on a number of GPUs. Times are in seconds.

    Args:
        gpus (int): Number of ranks, each with a GPU of its own.
        micro_batches_per_rank (tuple[int, int]): The fewest and the most on a rank, in an update.
        global_batch (int): Images of an update.
        images_per_second (float): Global batch / time of an update.
        efficiency (float): Images a second of a GPU, relative to those of the first row.
        update (UpdateTime): Time of an update by its parts.
        update_seconds (float): Time of an update.
        epoch_seconds (float): Time of the updates of an epoch.
        updates (int): Updates of the training.
        evaluation_seconds (float, optional): Time of one evaluation, None if unknown.
        evaluations (int): Evaluations of the training.
        checkpoint_seconds (float, optional): Time of one checkpoint, None if unknown.
        checkpoints (int): Checkpoints of the training.
        total_seconds (float): Time of all updates, evaluations and checkpoints.
        gpu_hours (float): GPUs x hours of the total.
        cost (float, optional): GPU-hours x price, None without a price.
    """

    gpus: int
    micro_batches_per_rank: tuple[int, int]
    global_batch: int
    images_per_second: float
    efficiency: float
    update: UpdateTime
    update_seconds: float
    epoch_seconds: float
    updates: int
    evaluation_seconds: float | None
    evaluations: int
    checkpoint_seconds: float | None
    checkpoints: int
    total_seconds: float
    gpu_hours: float
    cost: float | None


@dataclass(frozen=True)
class Hours:
    """The hours of a training on several numbers of GPUs.

    Args:
        source (str): Source of the times.
        rows (list[Row]): One for each number of GPUs.
        assumptions (list[str]): What the rows assume, one line each.
        warnings (list[str]): What slows the training and can be helped.
    """

    source: str
    rows: list[Row]
    assumptions: list[str]
    warnings: list[str]


def estimate_hours(
    plans: Sequence[Plan],
    times: Times,
    cfg: Config,
    gigabits: float = 100.0,
    price: float | None = None,
) -> Hours:
    """Compute the hours of a training on the ranks of each plan.

    Args:
        plans (Sequence[Plan]): Plans of one config for several numbers of ranks.
        times (Times): Times of one rank.
        cfg (Config): The config.
        gigabits (float): Bandwidth of the slowest link between the ranks, in Gb/s. Defaults to 100.
        price (float, optional): Price of a GPU for an hour, in any currency. Defaults to None.

    Returns:
        Hours: The rows, what they assume, and warnings.
    """
    workers = cfg.train_dataloader.get('num_workers', 0)
    rows: list[Row] = []
    for plan in plans:
        rows.append(_row(plan, times, workers, gigabits, price, rows[0] if rows else None))
    warnings = _loader_warnings(rows, times, workers)
    warnings += list(dict.fromkeys(line for plan in plans for line in plan.warnings))
    return Hours(times.source, rows, _assumptions(plans, rows, times, gigabits), warnings)


def _row(
    plan: Plan, times: Times, workers: int, gigabits: float, price: float | None, first: Row | None
) -> Row:
    update = update_time(times, plan, workers, gigabits)
    rate = plan.global_batch / update.total
    evaluation = None
    if times.evaluation is not None and times.validation_images is not None:
        evaluation = ceil(times.validation_images / plan.ranks) * times.evaluation
    updates = plan.max_updates or plan.updates
    total = updates * update.total
    total += plan.evaluations * (evaluation or 0.0)
    total += plan.checkpoints * (times.checkpoint or 0.0)
    hours = plan.ranks * total / 3600
    base = first.images_per_second / first.gpus if first else rate / plan.ranks
    return Row(
        gpus=plan.ranks,
        micro_batches_per_rank=plan.micro_batches_per_rank,
        global_batch=plan.global_batch,
        images_per_second=rate,
        efficiency=rate / plan.ranks / base,
        update=update,
        update_seconds=update.total,
        epoch_seconds=plan.updates_per_epoch * update.total,
        updates=updates,
        evaluation_seconds=evaluation,
        evaluations=plan.evaluations,
        checkpoint_seconds=times.checkpoint,
        checkpoints=plan.checkpoints,
        total_seconds=total,
        gpu_hours=hours,
        cost=None if price is None else hours * price,
    )


def _loader_warnings(rows: Sequence[Row], times: Times, workers: int) -> list[str]:
    """Name a loader that the model waits for."""
    warnings = []
    if times.loading is not None and times.model is not None:
        wanted = ceil(times.loading / times.model)
        slow = [str(row.gpus) for row in rows if row.update.loading > 0]
        each = f'{times.loading:.3g} s to load a micro-batch, {times.model:.3g} s for the model'
        if workers and slow:
            warnings.append(
                f'The loader is too slow on {", ".join(slow)} GPUs: {each}. '
                f'train_dataloader.num_workers={workers}, {wanted} would do.'
            )
        if not workers and times.loading > SLOW_LOADER * (times.loading + times.model):
            warnings.append(
                f'The model waits for the loader: {each}, one after the other with '
                f'train_dataloader.num_workers=0. {wanted} would hide the loading.'
            )
    if times.waiting is not None and times.waiting > SLOW_LOADER:
        warnings.append(
            f'The loader was too slow: the run waited for data {times.waiting:.0%} of the time. '
            f'Raise train_dataloader.num_workers={workers}.'
        )
    return warnings


def _assumptions(
    plans: Sequence[Plan], rows: Sequence[Row], times: Times, gigabits: float
) -> list[str]:
    """Return what the rows assume, one line each."""
    lines = list(times.assumptions)
    lines.append('the times of micro-batches are independent; an update waits for its slowest rank')
    if times.first_pass is None and any(plan.two_passes for plan in plans):
        lines.append(
            'reduce_mean takes a first pass where a rank has several micro-batches; only --measure '
            'knows its time'
        )
    parallel = [(plan, row) for plan, row in zip(plans, rows, strict=True) if plan.ranks > 1]
    if parallel:
        plan, row = parallel[-1]
        lines.append(
            f'ring all-reduce: {plan.gradient_bytes / 1e6:.1f} MB at --bandwidth {gigabits:g} Gb/s '
            f'take {1e3 * row.update.all_reduce:.3g} ms on {plan.ranks} GPUs, without latency'
        )
        hidden = f'hides all but {1e3 * row.update.exposed:.3g} ms of it'
        lines.append(
            'exact_sum adds after backward, which hides none of it'
            if plan.exact_sum
            else f'backward ({BACKWARD:.0%} of a micro-batch) {hidden}'
        )
    numbers = {row.updates for row in rows}
    parts = [f'{rows[0].updates:,} updates' if len(numbers) == 1 else 'all updates']
    if rows[0].evaluation_seconds is not None:
        parts.append(f'{rows[0].evaluations} evaluations of {times.validation_images:,} images')
    if times.checkpoint is not None:
        parts.append(f'{rows[0].checkpoints} checkpoints of {times.checkpoint:.2g} s')
    lines.append(f'the total is {", ".join(parts)}; no start and no restart')
    if len({plan.global_batch for plan in plans}) > 1:
        lines.append(
            'the global batch grows with the GPUs: this train loop has no global_batch_size'
        )
    return lines
