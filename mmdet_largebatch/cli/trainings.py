"""Shared by the tools that start several trainings in one folder."""

import argparse
import fcntl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from ..errors import SettingError
from ..tuning import Stopped, Trainings
from ..utils.exit_codes import PREEMPTED
from .launch import ConfigOptions

AnyTrainings = TypeVar('AnyTrainings', bound=Trainings)


def number_from(least: float, kind: type = int) -> Callable[[str], float]:
    """Return an argparse ``type`` that accepts numbers from ``least`` on."""

    def read(text: str) -> float:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f'{text} is below {least}')
        return value

    read.__name__ = kind.__name__
    return read


def add_training_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the arguments that say where and how the trainings run.

    Args:
        parser (ArgumentParser): The parser.
        name (str): First part of the default work folder's name.
    """
    add = parser.add_argument
    add('--gpus', type=number_from(1), default=1, help='ranks of one training (1)')
    add('--jobs', type=number_from(1), default=1, help='trainings at a time (1)')
    add('--work-dir', type=Path, help=f'parent of the work folders (work_dirs/{name}_CONFIG)')
    add(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='as of train.py'
    )
    parser.set_defaults(launcher='none', local_rank=0)


def set_work_dir(args: argparse.Namespace, name: str) -> None:
    """Set the default of ``--work-dir``."""
    args.work_dir = args.work_dir or Path('work_dirs') / f'{name}_{Path(args.config).stem}'


@contextmanager
def in_folder(
    args: argparse.Namespace, kind: type[AnyTrainings], unit: str
) -> Iterator[AnyTrainings]:
    """Train in a folder that no other command uses meanwhile, with a progress bar.

    On a signal the trainings save and exit, and so does this process.

    Args:
        args (Namespace): Command line, with ``work_dir``, ``gpus`` and ``jobs``.
        kind (type[Trainings]): Class of the trainings.
        unit (str): Unit of the progress bar.

    Yields:
        Trainings: The trainings.

    Raises:
        SettingError: If trainings of this folder are running.
        SystemExit: After a signal.
    """
    with open(args.work_dir / 'trainings.lock', 'w') as lock:
        try:
            # Trainings hold the lock too: one may still be saving after the tool has exited.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingError(
                f'--work-dir {args.work_dir}: trainings are still running there. Must be another '
                'folder, or wait for them.'
            ) from error
        # The delay keeps the bar off the terminal until its total is known.
        with tqdm(unit=unit, delay=1e-9) as bar:
            trainings = kind(args, bar, lock.fileno())
            try:
                yield trainings
            except Stopped as stopped:
                done = sum(map(trainings.is_done, trainings.known))
                trainings.say(
                    f'Stopped ({stopped}): {done} of {len(trainings.known)} runs are finished. '
                    'The same command goes on.'
                )
                sys.exit(PREEMPTED if str(stopped) == 'SIGTERM' else 128 + stopped.signum)
