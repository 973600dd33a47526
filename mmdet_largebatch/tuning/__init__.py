"""Train a recipe with several LRs and warmups, or batches, and compare the trainings."""

from .halving import Halving
from .processes import Stopped, run_jobs
from .run_halving import halve
from .sweep import Sweep, train_all
from .training_job import TrainingJob, finished_run, write_config
from .trainings import Trainings
from .trials import Trial, combinations, trial_config

__all__ = [
    'Halving',
    'Stopped',
    'Sweep',
    'TrainingJob',
    'Trainings',
    'Trial',
    'combinations',
    'finished_run',
    'halve',
    'run_jobs',
    'train_all',
    'trial_config',
    'write_config',
]
