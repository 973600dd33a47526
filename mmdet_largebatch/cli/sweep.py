"""Train a recipe with several LRs and warmups, then tabulate and draw the results.

    python tools/sweep.py CONFIG --lr 0.005 0.01 0.02 --warmup-iters 0 32 --jobs 2

Each combination is trained in its own folder under --work-dir. On Ctrl-C the running trainings
save and exit; the same command resumes them and skips finished ones. Diverged runs count as
finished. Table and pictures are written to --work-dir/results.
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
    """Return an argparse ``type`` that accepts numbers from ``least`` on."""

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
        help="LRs after the warmup (the recipe's LR)",
    )
    add(
        '--warmup-iters',
        nargs='+',
        type=number_from(0),
        default=[],
        help="lengths of the warmup in updates (the recipe's warmup)",
    )
    add(
        '--seeds',
        nargs='+',
        type=number_from(0),
        default=[],
        help="seeds, each with every pair of LR and warmup (the recipe's seed)",
    )
    add('--samples', type=number_from(1), help='random pairs of LR and warmup to run (all)')
    add('--sample-seed', type=number_from(0), default=0, help='seed of the random pairs (0)')
    add('--updates', type=number_from(1), help='cut each run short after this many updates')
    add('--gpus', type=number_from(1), default=1, help='ranks of one training (1)')
    add('--jobs', type=number_from(1), default=1, help='trainings at a time (1)')
    add('--work-dir', type=Path, help='parent of the work folders (work_dirs/sweep_CONFIG)')
    add('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='as of train.py')
    parser.set_defaults(launcher='none', local_rank=0)
    args = parser.parse_args()
    args.work_dir = args.work_dir or Path('work_dirs') / f'sweep_{Path(args.config).stem}'
    return args


def prepare(args: argparse.Namespace, cfg: Config) -> list[Trial]:
    """Check the data and the settings, and write the configs.

    Args:
        args (Namespace): Command line.
        cfg (Config): Recipe.

    Returns:
        list[Trial]: Trials of the sweep.

    Raises:
        SettingError: If a setting is invalid.
    """
    trials = combinations(
        args.work_dir, args.lr, args.warmup_iters, args.seeds, args.samples, args.sample_seed
    )
    look_at_data(cfg, ['train', 'val'])
    configs = [trial_config(cfg, trial, args.updates) for trial in trials]
    for trial, config in zip(trials, configs, strict=True):
        write_config(trial, config)
    return trials


def summary(run: Run) -> str:
    """Return the status and the APs of a run."""
    aps = dict(box=run.box_ap, mask=run.mask_ap)
    texts = [f'{name} AP {ap:.3f}' for name, ap in aps.items() if ap is not None]
    return ', '.join([run.status_text, *texts])


def train(args: argparse.Namespace, trials: list[Trial], lock: int) -> list[Trial]:
    """Train the unfinished trials, with a progress bar.

    Args:
        args (Namespace): Command line.
        trials (list[Trial]): Trials of the sweep.
        lock (int): File descriptor of the lock.

    Returns:
        list[Trial]: Trials that failed.

    Raises:
        SettingError: If a trial refused its settings. The others would too.
        Stopped: If a signal was received.
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
            failure = f'failed with status {status}, see {trial.output}'
            bar.write(f'{trial.folder.name}: {summary(run) if run else failure}', file=sys.stderr)
            bar.update()

        run_trials(waiting, args.gpus, args.jobs, lock, ended)
    return failed


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Train, tabulate and draw."""
    cfg.work_dir = str(args.work_dir)
    check_work_dir(cfg)
    with open(args.work_dir / 'sweep.lock', 'w') as lock:
        try:
            # Trainings hold the lock too: one may still be saving after the sweep has exited.
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
            sys.exit(PREEMPTED if str(stopped) == 'SIGTERM' else 128 + stopped.signum)
    runs = [run for run in map(finished_run, trials) if run is not None]
    if runs:
        # Random pairs make a heat map with gaps.
        several = len({run.lr for run in runs}) > 1 < len({run.warmup_updates for run in runs})
        out = args.work_dir / 'results'
        heatmap = True if args.samples and several else None
        print(write_report(runs, out, len(args.seeds) > 1, heatmap), end='')
        print(f'Table and pictures: {out}')
    if failed:
        print(f'{len(failed)} of {len(trials)} runs failed.', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
