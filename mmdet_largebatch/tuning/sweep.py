"""Train the trials of a sweep, with a progress bar."""

import argparse
import sys
from dataclasses import dataclass, field

from mmengine.config import Config
from tqdm import tqdm

from ..errors import SettingError
from ..results import Run
from ..results.run_rows import RowKey, add_row, code_commit, read_rows, row_key, row_of
from ..utils.exit_codes import WRONG_SETTING
from .processes import run_trials
from .trials import Trial, combinations, finished_run, trial_config, write_config


def summary(run: Run) -> str:
    """Return the status and the APs of a run."""
    aps = dict(box=run.box_ap, mask=run.mask_ap)
    texts = [f'{name} AP {ap:.3f}' for name, ap in aps.items() if ap is not None]
    return ', '.join([run.status_text, *texts])


@dataclass
class Sweep:
    """A sweep in progress.

    Args:
        args (Namespace): Command line.
        bar (tqdm): Progress bar.
        lock (int): File descriptor that every training keeps open.
        trials (list[Trial]): Trials so far.
        keys (dict[Trial, RowKey]): Keys of their rows, with ``--table``.
        compared (list[Trial]): Trials in the table and the pictures of the sweep.
        failed (list[Trial]): Trials that failed.
    """

    args: argparse.Namespace
    bar: tqdm
    lock: int
    trials: list[Trial] = field(default_factory=list)
    keys: dict[Trial, RowKey] = field(default_factory=dict)
    compared: list[Trial] = field(default_factory=list)
    failed: list[Trial] = field(default_factory=list)

    def add(self, trials: list[Trial], cfg: Config) -> None:
        """Check the settings of trials, and write their configs.

        Raises:
            SettingError: If a setting is invalid.
        """
        configs = [trial_config(cfg, trial, self.args.updates) for trial in trials]
        if self.args.table:
            self.keys.update(
                {trial: row_key(one) for trial, one in zip(trials, configs, strict=True)}
            )
        for trial, config in zip(trials, configs, strict=True):
            write_config(trial, config)
        self.trials += trials

    def is_done(self, trial: Trial) -> bool:
        """Return True if a trial is finished. A row in the table is enough."""
        if self.args.table and self.keys[trial] in read_rows(self.args.table):
            return True
        run = finished_run(trial)
        if run and self.args.table:
            # Stopped between the end of the run and its row.
            add_row(self.args.table, row_of(run, self.keys[trial], code_commit()))
        return run is not None

    def begin_bar(self, done: int, total: int) -> None:
        """Show what was finished before, and keep it out of the estimated time."""
        self.bar.reset(total=total)
        self.bar.initial = self.bar.n = self.bar.last_print_n = done
        self.bar.refresh()

    def train(self, trials: list[Trial], cost: int = 1) -> None:
        """Train trials.

        Args:
            trials (list[Trial]): Trials that are not finished.
            cost (int): Length of one trial in units of the bar. Defaults to 1.

        Raises:
            SettingError: If a trial refused its settings. The others would too.
            Stopped: If a signal was received.
        """

        def ended(trial: Trial, status: int) -> None:
            if status == WRONG_SETTING:
                lines = trial.output.read_text(errors='replace').splitlines()
                line = next((x for x in reversed(lines) if x.startswith('error: ')), '')
                raise SettingError(line.removeprefix('error: ') or f'see {trial.output}')
            run = finished_run(trial)
            if not self.is_done(trial):
                self.failed.append(trial)
            failure = f'failed with status {status}, see {trial.output}'
            name = trial.folder.relative_to(self.args.work_dir)
            self.bar.write(f'{name}: {summary(run) if run else failure}', file=sys.stderr)
            self.bar.update(cost)

        run_trials(trials, self.args.gpus, self.args.jobs, self.lock, ended)


def train_all(sweep: Sweep, cfg: Config) -> None:
    """Train all combinations, or random ones."""
    args = sweep.args
    trials = combinations(
        args.work_dir, args.lr, args.warmup_iters, args.seeds, args.samples, args.sample_seed
    )
    sweep.add(trials, cfg)
    sweep.compared = trials
    waiting = [trial for trial in trials if not sweep.is_done(trial)]
    sweep.begin_bar(len(trials) - len(waiting), len(trials))
    sweep.train(waiting)
