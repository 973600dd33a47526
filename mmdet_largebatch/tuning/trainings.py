"""Train the jobs of one command, with a progress bar."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from ..errors import SettingError
from ..results import Run
from ..utils.exit_codes import WRONG_SETTING
from .processes import run_jobs
from .training_job import TrainingJob, finished_run


@dataclass
class Trainings:
    """Trainings of one command in progress.

    Args:
        args (Namespace): Command line, with ``work_dir``, ``gpus`` and ``jobs``.
        bar (tqdm): Progress bar.
        lock (int): File descriptor that every training keeps open.
        known (list[TrainingJob]): Trainings so far.
        failed (list[TrainingJob]): Trainings that failed.
    """

    args: argparse.Namespace
    bar: tqdm
    lock: int
    known: list[TrainingJob] = field(default_factory=list)
    failed: list[TrainingJob] = field(default_factory=list)

    def result(self, job: TrainingJob) -> Run | None:
        """Return the run of a finished training; None if it is not finished."""
        return finished_run(job)

    def is_done(self, job: TrainingJob) -> bool:
        """Return True if a training is finished."""
        return self.result(job) is not None

    def summary(self, run: Run) -> str:
        """Return the result of a run in a few words."""
        return run.status_text

    def begin_bar(self, done: int, total: int) -> None:
        """Show what was finished before, and keep it out of the estimated time."""
        self.bar.reset(total=total)
        self.bar.initial = self.bar.n = self.bar.last_print_n = done
        self.bar.refresh()

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self.bar.write(text, file=sys.stderr)

    def train(self, jobs: Sequence[TrainingJob], cost: int = 1) -> None:
        """Train jobs.

        Args:
            jobs (Sequence[TrainingJob]): Trainings that are not finished.
            cost (int): Length of one training in units of the bar. Defaults to 1.

        Raises:
            SettingError: If a training refused its settings. The others would too.
            Stopped: If a signal was received.
        """

        def ended(job: TrainingJob, status: int) -> None:
            if status == WRONG_SETTING:
                lines = job.output.read_text(errors='replace').splitlines()
                line = next((x for x in reversed(lines) if x.startswith('error: ')), '')
                raise SettingError(line.removeprefix('error: ') or f'see {job.output}')
            run = self.result(job)
            if run is None:
                self.failed.append(job)
                text = f'failed with status {status}, see {job.output}'
            else:
                text = self.summary(run)
            self.say(f'{job.folder.relative_to(self.args.work_dir)}: {text}')
            self.bar.update(cost)

        run_jobs(jobs, self.args.gpus, self.args.jobs, self.lock, ended)
