"""The part of plan.py that turns a source of times into hours."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from mmengine.config import Config

from ..checks import check, invalid, is_number
from ..errors import SettingError
from ..planning import (
    Hours,
    Plan,
    Times,
    estimate_hours,
    make_plan,
    measure,
    times_like,
    times_said,
)
from ..planning.counts import count_validation_images
from ..utils.type_names import type_name

SOURCES = '--measure, --like or --images-per-second'
GIGABITS = 100.0
# A larger coefficient of variation is a mistake, such as per cent.
LARGEST_SPREAD = 3.0


def add_hours_arguments(parser: ArgumentParser) -> None:
    """Add the sources of times, and what the hours are computed with.

    Args:
        parser (ArgumentParser): The parser to add to.
    """
    parser.add_argument(
        '--measure',
        action='store_true',
        help='measure 50 micro-batches on this machine',
    )
    parser.add_argument(
        '--like', type=Path, metavar='WORK_DIR', help='take the times from the log of a run'
    )
    parser.add_argument(
        '--images-per-second', type=float, metavar='X', help='training speed of one GPU'
    )
    parser.add_argument(
        '--spread',
        type=float,
        metavar='CV',
        help='standard deviation / mean of the times of micro-batches; with --like, in place of '
        'that of the log',
    )
    parser.add_argument(
        '--bandwidth',
        type=float,
        metavar='GBPS',
        help=f'Gb/s of the slowest link between the GPUs; {GIGABITS:g} by default',
    )
    parser.add_argument('--price', type=float, help='price of a GPU for an hour')


def check_hours_arguments(args: Namespace) -> bool:
    """Check the arguments of the hours.

    Args:
        args (Namespace): The parsed arguments.

    Returns:
        bool: True if there is a source of times.

    Raises:
        SettingError: If they do not fit together, or a value is invalid.
    """
    rate, spread = args.images_per_second, args.spread
    given = {'--measure': args.measure, '--like': args.like, '--images-per-second': rate}
    sources = [name for name, value in given.items() if value is not None and value is not False]
    if len(sources) > 1:
        raise SettingError(f'{" and ".join(sources)} both say the times. Must be one of them.')
    options = {'--spread': spread, '--bandwidth': args.bandwidth, '--price': args.price}
    if not sources:
        several = args.gpus is not None and len(args.gpus) > 1
        wanted = f'one number without {SOURCES}, which say the times'
        check(not several, '--gpus', args.gpus, wanted)
        for name, value in options.items():
            check(value is None, name, value, f'left out without {SOURCES}, which say the times')
        return False
    for name, value in (options | {'--images-per-second': rate}).items():
        if value is None:
            continue
        free = name in ('--spread', '--price')
        ok = is_number(value) and (value >= 0 if free else value > 0)
        check(ok, name, value, '>= 0' if free else '> 0')
    if args.measure:
        check(spread is None, '--spread', spread, 'left out with --measure, which measures it')
    if spread is None and rate is not None:
        wanted = (
            'given with --images-per-second: the standard deviation / mean of the times of '
            'micro-batches, such as 0.2'
        )
        raise invalid('--spread', spread, wanted)
    wanted = f'at most {LARGEST_SPREAD:g}, as a standard deviation / mean'
    check(spread is None or spread <= LARGEST_SPREAD, '--spread', spread, wanted)
    return True


def hours_of(cfg: Config, args: Namespace) -> Hours:
    """Compute the hours of a training.

    Args:
        cfg (Config): The config.
        args (Namespace): The parsed arguments, which are checked.

    Returns:
        Hours: The hours.

    Raises:
        SettingError: If the training would be refused, or there are no times.
    """
    plans = _plans(cfg, sorted(set(args.gpus)) if args.gpus else [None], args.images)
    gigabits = args.bandwidth or GIGABITS
    times = _times(cfg, plans[0], args, gigabits)
    return estimate_hours(plans, times, cfg, gigabits, args.price)


def _plans(cfg: Config, gpus: list[int] | list[None], images: int | None) -> list[Plan]:
    """Plan a training on each number of GPUs; the annotation file is read once."""
    plans = []
    for ranks in gpus:
        plans.append(make_plan(cfg, ranks, images))
        if type_name(cfg.train_dataloader.get('sampler')) == 'DefaultSampler':
            images = plans[0].images
    return plans


def _times(cfg: Config, plan: Plan, args: Namespace, gigabits: float) -> Times:
    if args.measure:
        return measure(cfg, plan)
    if args.like is not None:
        evaluated = count_validation_images(cfg) if args.images is None else None
        return times_like(args.like, plan, args.spread, gigabits, evaluated)
    return times_said(args.images_per_second, args.spread, plan)
