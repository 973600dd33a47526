"""Train a recipe with several LRs and warmups, then tabulate and draw what came of it.

    python tools/sweep.py CONFIG --lr 0.005 0.01 0.02 --warmup-iters 0 32 --jobs 2

Each combination is trained in a folder of its own under --work-dir. Ctrl-C lets the running
trainings save; the same command goes on where they stopped, and leaves finished ones alone. A run
that diverged is a result. The table and the pictures go to --work-dir/results.
"""

import argparse
import fcntl
import sys
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config, DictAction
from tqdm import tqdm

from ..errors import SettingError
from ..results import Run, write_report
from ..tuning import (
    Stopped,
    Trial,
    combinations,
    finished_run,
    run_trials,
    trial_config,
    write_config,
)
from ..utils.exit_codes import PREEMPTED, WRONG_SETTING
from . import check_work_dir, look_at_data, one_line_errors


def number_from(least: int, kind: type = int) -> Callable[[str], float]:
    """Return a parser of a number on the command line.

    Args:
        least (int): The least number allowed.
        kind (type): ``int`` or ``float``. Defaults to int.

    Returns:
        Callable[[str], float]: For ``type`` of an argument.
    """

    def read(text: str) -> float:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f'{text} is below {least}')
        return value

    read.__name__ = kind.__name__
    return read


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a recipe with several LRs and warmups')
    add = parser.add_argument
    add('config', help='config file')
    add(
        '--lr',
        nargs='+',
        type=number_from(0, float),
        default=[],
        help="LRs after the warmup; the recipe's own by default",
    )
    add(
        '--warmup-iters',
        nargs='+',
        type=number_from(0),
        default=[],
        help="lengths of the warmup, in updates; the recipe's own by default",
    )
    add(
        '--seeds',
        nargs='+',
        type=number_from(0),
        default=[],
        help="seeds, each for every pair of LR and warmup; the recipe's own by default",
    )
    add('--samples', type=number_from(1), help='draw so many pairs of LR and warmup, not all')
    add('--sample-seed', type=number_from(0), default=0, help='seed of that draw')
    add('--updates', type=number_from(1), help='cut each run short after so many updates')
    add('--gpus', type=number_from(1), default=1, help='ranks of one training (1)')
    add('--jobs', type=number_from(1), default=1, help='trainings at a time (1)')
    add('--work-dir', type=Path, help='folder of all of them; work_dirs/sweep_CONFIG by default')
    add('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='as of train.py')
    parser.set_defaults(launcher='none', local_rank=0)
    args = parser.parse_args()
    args.work_dir = args.work_dir or Path('work_dirs') / f'sweep_{Path(args.config).stem}'
    return args


def prepare(args: argparse.Namespace, cfg: Config) -> list[Trial]:
    """Check what can be checked beforehand and write the configs.

    Args:
        args (Namespace): The command line.
        cfg (Config): The recipe.

    Returns:
        list[Trial]: All trials of the sweep.

    Raises:
        SettingError: If a setting cannot be used; nothing is trained then.
    """
    trials = combinations(
        args.work_dir, args.lr, args.warmup_iters, args.seeds, args.samples, args.sample_seed
    )
    look_at_data(cfg, ['train', 'val'])
    configs = [trial_config(cfg, trial, args.updates) for trial in trials]
    for trial, config in zip(trials, configs, strict=True):
        write_config(trial, config)
    return trials


def told(run: Run) -> str:
    """Return the result of a run in a few words."""
    ap = [
        f'{name} AP {value:.3f}'
        for name, value in (('box', run.box_ap), ('mask', run.mask_ap))
        if value is not None
    ]
    return ', '.join([run.status_text, *ap])


def train(args: argparse.Namespace, trials: list[Trial], lock: int) -> list[Trial]:
    """Train what is not finished yet, with a progress bar.

    Args:
        args (Namespace): The command line.
        trials (list[Trial]): All trials.
        lock (int): File descriptor of the lock.

    Returns:
        list[Trial]: Those that failed, by an error of their own.

    Raises:
        SettingError: If a training refused its settings: the others would too.
        Stopped: If the sweep was told to stop.
    """
    waiting = [trial for trial in trials if finished_run(trial) is None]
    failed = []
    with tqdm(total=len(trials), initial=len(trials) - len(waiting), unit='run') as bar:

        def ended(trial: Trial, status: int) -> None:
            if status == WRONG_SETTING:
                lines = trial.output.read_text(errors='replace').splitlines()
                line = next((x for x in reversed(lines) if x.startswith('error: ')), '')
                raise SettingError(line.removeprefix('error: ') or f'see {trial.output}')
            run = finished_run(trial)
            if run is None:
                failed.append(trial)
            said = f'failed with status {status}, see {trial.output}' if run is None else told(run)
            bar.write(f'{trial.folder.name}: {said}', file=sys.stderr)
            bar.update()

        run_trials(waiting, args.gpus, args.jobs, lock, ended)
    return failed


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Read the command line, train, tabulate and draw."""
    cfg.work_dir = str(args.work_dir)
    check_work_dir(cfg)
    with open(args.work_dir / 'sweep.lock', 'w') as lock:
        try:
            # Trainings keep it too: one may still be saving when the sweep is gone.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingError(
                f'--work-dir {args.work_dir}: a sweep, or a training of one, is still running '
                'there. Must be another folder, or wait for it.'
            ) from error
        trials = prepare(args, cfg)
        try:
            failed = train(args, trials, lock.fileno())
        except Stopped as stopped:
            done = sum(finished_run(trial) is not None for trial in trials)
            print(
                f'Stopped ({stopped}): {done} of {len(trials)} runs are finished. The same '
                'command goes on.',
                file=sys.stderr,
            )
            sys.exit(PREEMPTED if str(stopped) == 'SIGTERM' else 128 + stopped.number)
    runs = [run for run in map(finished_run, trials) if run is not None]
    if runs:
        # Drawn with gaps where some pairs were drawn at random.
        gaps = len({run.lr for run in runs}) > 1 < len({run.warmup_updates for run in runs})
        out = args.work_dir / 'results'
        heatmap = True if args.samples and gaps else None
        print(write_report(runs, out, len(args.seeds) > 1, heatmap), end='')
        print(f'Table and pictures: {out}')
    if failed:
        print(f'{len(failed)} of {len(trials)} runs failed.', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
