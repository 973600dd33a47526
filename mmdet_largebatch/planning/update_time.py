"""The time of an update on a number of ranks: the slowest rank, the all-reduce and the step."""

from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from .plan import Plan

# Draws of an update's slowest rank, as far as so many micro-batches allow.
DRAWS, DRAWN_MICRO_BATCHES = 10_000, 4_000_000
FEWEST_DRAWS = 500
# Part of a micro-batch's time that is backward: it has twice the operations of forward.
BACKWARD = 2 / 3
# DDP's bucket_cap_mb. The all-reduce of the last bucket begins after backward.
BUCKET_BYTES = 25 * 2**20


@dataclass(frozen=True)
class Times:
    """Times of one rank, in seconds, from which those of any number of ranks are computed.

    Args:
        source (str): Source of the times.
        micro_batches (np.ndarray): Times of micro-batches: forward, backward and what the loop
            does besides. With ``num_workers=0`` they include loading. Shape (N,).
        first_pass (np.ndarray, optional): Times of the first pass over the same micro-batches,
            which is made where several of an update are on one rank. Shape (N,). None for a model
            without such a pass. Defaults to None.
        step (float): Time of an update besides its micro-batches and the all-reduce.
        loading (float, optional): Mean time in which one data worker loads a micro-batch, None if
            unknown. Defaults to None.
        model (float, optional): Mean time of the model alone on a micro-batch, None if unknown.
        waiting (float, optional): Share of the time in which the model waits for data, None if
            unknown. Defaults to None.
        evaluation (float, optional): Time of a validation image, None if unknown.
        validation_images (int, optional): Images of an evaluation, None if unknown.
        checkpoint (float, optional): Time of saving a checkpoint, None if unknown.
        assumptions (tuple[str, ...]): Lines on what the times are.
    """

    source: str
    micro_batches: np.ndarray = field(repr=False)
    first_pass: np.ndarray | None = field(default=None, repr=False)
    step: float = 0.0
    loading: float | None = None
    model: float | None = None
    waiting: float | None = None
    evaluation: float | None = None
    validation_images: int | None = None
    checkpoint: float | None = None
    assumptions: tuple[str, ...] = ()

    def on_a_rank(self, several: bool) -> np.ndarray:
        """Return the times of micro-batches, with the first pass if a rank has several of them."""
        passes = several and self.first_pass is not None
        return self.micro_batches + self.first_pass if passes else self.micro_batches


@dataclass(frozen=True)
class UpdateTime:
    """The mean time of an update, in seconds, by its parts.

    Args:
        compute (float): The slowest rank's micro-batches.
        loading (float): What the data workers take longer than that.
        all_reduce (float): The whole all-reduce of the gradients.
        exposed (float): The part of it that backward does not hide.
        step (float): Optimizer step, hooks and logging.
    """

    compute: float
    loading: float
    all_reduce: float
    exposed: float
    step: float

    @property
    def total(self) -> float:
        """float: The time of an update."""
        return self.compute + self.loading + self.exposed + self.step


def lognormal(mean: float, cv: float, size: int = 10_000) -> np.ndarray:
    """Return times with a lognormal distribution, as its quantiles at equal steps.

    Args:
        mean (float): Mean.
        cv (float): Coefficient of variation: standard deviation / mean.
        size (int): Number of times. Defaults to 10,000.

    Returns:
        np.ndarray: Shape (size,).
    """
    sigma = np.sqrt(np.log1p(cv**2))
    normal = np.array([NormalDist().inv_cdf((index + 0.5) / size) for index in range(size)])
    times = np.exp(sigma * normal)
    return mean * times / times.mean()


def times_said(images_per_second: float, spread: float, plan: Plan) -> Times:
    """Return times from the speed of one GPU.

    Args:
        images_per_second (float): Training speed of one GPU that waits for no other.
        spread (float): Coefficient of variation of the times of micro-batches.
        plan (Plan): A plan of the config.

    Returns:
        Times: Lognormal times of micro-batches.
    """
    return Times(
        source='--images-per-second',
        micro_batches=lognormal(plan.micro_batch / images_per_second, spread),
        assumptions=(
            f'one GPU trains {images_per_second:g} images a second; its micro-batches have '
            f'lognormal times, CV {spread:g}',
            'these times include loading and the optimizer step',
            'evaluation and checkpoints are not included: --measure takes their times',
        ),
    )


def slowest_rank(
    times: np.ndarray, ranks: int, micro_batches: int, seed: int = 0, draws: int | None = None
) -> np.ndarray:
    """Draw how long the slowest rank of an update computes.

    The times of its micro-batches are drawn with replacement (bootstrap), independently on each
    rank. Of ``R`` ranks, the first ``micro_batches % R`` have one micro-batch more, as
    :class:`GlobalBatchSampler` deals them.

    Args:
        times (np.ndarray): Times of micro-batches, shape (N,).
        ranks (int): Number of ranks.
        micro_batches (int): Micro-batches of an update, over all ranks; at least as many.
        seed (int): Seed of the draws. Defaults to 0.
        draws (int, optional): Number of updates that are drawn. None for enough.

    Returns:
        np.ndarray: Time of the slowest rank in each drawn update.
    """
    most = DRAWN_MICRO_BATCHES // micro_batches
    draws = draws or min(DRAWS, max(FEWEST_DRAWS, most))
    drawn = np.random.default_rng(seed).choice(times, (draws, micro_batches))
    share, rest = divmod(micro_batches, ranks)
    cut = rest * (share + 1)
    parts = drawn[:, :cut].reshape(draws, rest, share + 1), drawn[:, cut:]
    more, fewer = parts[0].sum(2), parts[1].reshape(draws, ranks - rest, share).sum(2)
    return np.concatenate([more, fewer], axis=1).max(1)


def ring_all_reduce(size: float, ranks: int, gigabits: float) -> float:
    """Return the seconds of a ring all-reduce, which sends 2 (R - 1) / R of its bytes.

    Patarasuk and Yuan, *Bandwidth optimal all-reduce algorithms for clusters of workstations*,
    2009. Latency is left out.

    Args:
        size (float): Bytes.
        ranks (int): Number of ranks, R.
        gigabits (float): Bandwidth of the slowest link, in Gb/s.
    """
    return 2 * (ranks - 1) / ranks * 8 * size / (gigabits * 1e9)


def exposed_part(all_reduce: float, size: float, backward: float, exact_sum: bool) -> float:
    """Return the seconds of an all-reduce that the backward pass does not hide.

    DDP sends a bucket of gradients while backward computes the next ones, in a rank's last
    micro-batch (Li et al., arXiv 2006.15704). The last bucket has nothing left to hide behind.
    With ``exact_sum`` gradients are sent after all micro-batches.

    Args:
        all_reduce (float): Seconds of the whole all-reduce.
        size (float): Its bytes.
        backward (float): Seconds of the backward pass of a micro-batch.
        exact_sum (bool): True if gradients are added as integers.
    """
    if exact_sum or not size:
        return all_reduce
    return max(all_reduce - backward, all_reduce * min(1.0, BUCKET_BYTES / size))


def update_time(times: Times, plan: Plan, workers: int, gigabits: float) -> UpdateTime:
    """Compute the mean time of an update.

    Args:
        times (Times): Times of one rank.
        plan (Plan): The plan for a number of ranks.
        workers (int): Data workers of a rank.
        gigabits (float): Bandwidth between the ranks, in Gb/s.

    Returns:
        UpdateTime: The time by its parts.
    """
    several = plan.micro_batches > plan.ranks
    on_a_rank = times.on_a_rank(several)
    compute = float(slowest_rank(on_a_rank, plan.ranks, plan.micro_batches).mean())
    loading = 0.0
    if times.loading is not None and workers:
        # Workers load ahead of the model, so that their mean decides.
        loading = max(0.0, plan.micro_batches_per_rank[1] * times.loading / workers - compute)
    whole = ring_all_reduce(plan.gradient_bytes, plan.ranks, gigabits)
    backward = BACKWARD * float(times.micro_batches.mean())
    exposed = exposed_part(whole, plan.gradient_bytes, backward, plan.exact_sum)
    return UpdateTime(compute, loading, whole, exposed, times.step)
