"""Read the times of micro-batches from the log of an earlier run."""

from math import ceil
from pathlib import Path

import numpy as np

from ..checks import check, invalid
from ..errors import SettingError
from ..results import Run, read_run
from .plan import Plan
from .update_time import BACKWARD, Times, exposed_part, lognormal, ring_all_reduce, slowest_rank

# Fewest logged means from which a spread is taken.
FEWEST_MEANS = 8
# MMEngine's LogProcessor averages this many iterations where the config says nothing.
WINDOW = 10
# Draws of a candidate spread.
DRAWS = 4_000


def times_like(
    work_dir: str | Path,
    plan: Plan,
    spread: float | None,
    gigabits: float,
    validation_images: int | None = None,
) -> Times:
    """Read the time of an update, and take it apart into times of micro-batches.

    The logged time of an update is that of its slowest rank and of the all-reduce. The times of
    micro-batches are the lognormal ones that give this time on the ranks of the run.

    Args:
        work_dir (str or Path): Work folder of a run, of this package's tools or of MMDetection's
            own ``train.py``.
        plan (Plan): A plan of the config, with as many ranks as the run or as any number.
        spread (float, optional): Coefficient of variation of the times of micro-batches. None
            takes it from the log.
        gigabits (float): Bandwidth between the ranks of the run, in Gb/s.
        validation_images (int, optional): Images of an evaluation, None if unknown.

    Returns:
        Times: The times of one rank.

    Raises:
        SettingError: If the log has no times, the run had several numbers of ranks or other
            micro-batches than the config, or the log is too short for a spread.
    """
    run = read_run(work_dir)
    seconds = np.array([logged.seconds for logged in run.updates if logged.seconds])
    if not len(seconds):
        raise SettingError(f'--like {work_dir}: no times in its logs. Must be a run that trained.')
    ranks, micro_batches = _layout(run, plan, work_dir)
    stride, averaged = _window(run)
    if spread is None:
        spread = _spread(seconds[stride - 1 :: stride], averaged, ranks, micro_batches)
        said = 'by the differences of successive log lines'
    else:
        said = 'by --spread'
    update = float(np.median(seconds))
    mean, exposed = _mean(update, spread, plan, ranks, micro_batches, gigabits)
    lines = [
        f'{run.work_dir}: {len(seconds)} logged times, median {update:.4g} s an update of '
        f'{micro_batches} micro-batches on {ranks} rank{"s" if ranks > 1 else ""}',
        f'{exposed:.3g} s of it are taken as the all-reduce, at --bandwidth',
        f'micro-batches have lognormal times, CV {spread:.2g} {said}',
        'these times include loading and the optimizer step',
        'checkpoints are not included: the log has no time of them',
    ]
    evaluation = _evaluation(run)
    if evaluation is None or validation_images is None:
        why = 'times' if evaluation is None else 'number of images'
        lines.append(f'evaluation is not included: no {why} of it are known')
    waits = [logged.waited for logged in run.updates if logged.waited is not None]
    return Times(
        source=f'--like {work_dir}',
        micro_batches=lognormal(mean, spread),
        waiting=float(np.median(waits)) / update if waits else None,
        evaluation=evaluation,
        validation_images=validation_images,
        assumptions=tuple(lines),
    )


def _evaluation(run: Run) -> float | None:
    """Return the time of a validation image on a rank, None if unknown."""
    batch = (run.recipe.get('val_dataloader') or {}).get('batch_size')
    seconds = [one.seconds for one in run.evaluations if one.seconds]
    return float(np.median(seconds)) / batch if seconds and batch else None


def _layout(run: Run, plan: Plan, work_dir: str | Path) -> tuple[int, int]:
    """Return the ranks of a run and the micro-batches of its updates."""
    if len(run.ranks) != 1 or run.global_batch is None:
        found = ', '.join(map(str, run.ranks)) or 'no number of'
        raise SettingError(
            f'--like {work_dir}: {found} ranks in its logs. Must be a run on one number of ranks.'
        )
    (ranks,) = run.ranks
    loader = run.recipe.get('train_dataloader') or {}
    micro_batch = loader.get('batch_size')
    if micro_batch != plan.micro_batch:
        raise SettingError(
            f'--like {work_dir}: its micro-batches have {micro_batch} images and those of the '
            f'config {plan.micro_batch}. Must be as many.'
        )
    return ranks, run.global_batch // micro_batch


def _window(run: Run) -> tuple[int, int]:
    """Return the step between log lines whose means share no update, and the updates of a mean."""
    accumulated = (run.recipe.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    window = (run.recipe.get('log_processor') or {}).get('window_size', WINDOW)
    averaged = max(1, window // accumulated)
    lines = np.diff([logged.update for logged in run.updates])
    interval = max(1, int(np.median(lines))) if len(lines) else averaged
    return ceil(averaged / interval), averaged


def _spread(means: np.ndarray, averaged: int, ranks: int, micro_batches: int) -> float:
    """Return the CV of micro-batches under which the logged means vary as they do.

    Differences of successive means (von Neumann) leave out what changes slowly, and their median
    what happens rarely, such as saving.
    """
    if len(means) < FEWEST_MEANS:
        wanted = f'given: the log has {len(means)} separate means, fewer than {FEWEST_MEANS}'
        raise invalid('--spread', None, wanted)
    # Median of |x| is 0.6745 standard deviations of a normal x.
    difference = np.median(np.abs(np.diff(means))) / 0.6745
    wanted = difference / np.sqrt(2) * np.sqrt(averaged) / np.median(means)
    low, high = 0.0, 3.0
    for _ in range(16):
        middle = (low + high) / 2
        drawn = slowest_rank(lognormal(1.0, middle), ranks, micro_batches, draws=DRAWS)
        low, high = (middle, high) if drawn.std() / drawn.mean() < wanted else (low, middle)
    check(high < 3.0, '--spread', None, 'given: the logged times vary too much for a model of them')
    return (low + high) / 2


def _mean(
    update: float, spread: float, plan: Plan, ranks: int, micro_batches: int, gigabits: float
) -> tuple[float, float]:
    """Return the mean time of a micro-batch, and the exposed part of the run's all-reduce."""
    slowest = slowest_rank(lognormal(1.0, spread), ranks, micro_batches).mean()
    size = plan.parameters * (8 if plan.exact_sum else 4) if ranks > 1 else 0
    whole = ring_all_reduce(size, ranks, gigabits)
    low, high = 0.0, update / slowest
    # The faster a micro-batch, the less of the all-reduce it hides.
    for _ in range(50):
        mean = (low + high) / 2
        exposed = exposed_part(whole, size, BACKWARD * mean, plan.exact_sum)
        low, high = (mean, high) if mean * slowest + exposed < update else (low, mean)
    if exposed >= update / 2:
        wanted = f'more: the all-reduce alone would take {whole:.3g} s of the {update:.3g} s logged'
        raise invalid('--bandwidth', gigabits, wanted)
    return mean, exposed
