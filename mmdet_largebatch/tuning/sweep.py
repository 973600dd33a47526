"""Train the trials of a sweep."""

from dataclasses import dataclass, field

from mmengine.config import Config

from ..results import Run
from ..results.run_rows import RowKey, add_row, code_commit, read_rows, row_key, row_of
from .halving import score
from .training_job import TrainingJob, write_config
from .trainings import Trainings
from .trials import Trial, combinations, trial_config


@dataclass
class Sweep(Trainings):
    """A sweep in progress.

    Args:
        keys (dict[TrainingJob, RowKey]): Keys of their rows, with ``--table``.
        compared (list[Trial]): Trials in the table and the pictures of the sweep.
    """

    keys: dict[TrainingJob, RowKey] = field(default_factory=dict)
    compared: list[Trial] = field(default_factory=list)

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
        self.known += trials

    def result(self, job: TrainingJob) -> Run | None:
        """Return the run of a finished trial, after its row is written.

        Raises:
            SettingError: If halving needs a box AP and the run has none.
        """
        run = super().result(job)
        if run and self.args.table:
            row = row_of(run, self.keys[job], code_commit())
            add_row(self.args.table, row)
            if self.args.halving:
                score(row)
        return run

    def is_done(self, job: TrainingJob) -> bool:
        """Return True if a trial is finished. A row in the table is enough."""
        if self.args.table and self.keys[job] in read_rows(self.args.table):
            return True
        return super().is_done(job)

    def summary(self, run: Run) -> str:
        """Return the status and the APs of a run."""
        aps = dict(box=run.box_ap, mask=run.mask_ap)
        texts = [f'{name} AP {ap:.3f}' for name, ap in aps.items() if ap is not None]
        return ', '.join([run.status_text, *texts])


def train_all(sweep: Sweep, cfg: Config) -> str:
    """Train all combinations, or random ones. The returned conclusion is empty."""
    args = sweep.args
    trials = combinations(
        args.work_dir, args.lr, args.warmup_iters, args.seeds, args.samples, args.sample_seed
    )
    sweep.add(trials, cfg)
    sweep.compared = trials
    waiting = [trial for trial in trials if not sweep.is_done(trial)]
    sweep.begin_bar(len(trials) - len(waiting), len(trials))
    sweep.train(waiting)
    return ''
