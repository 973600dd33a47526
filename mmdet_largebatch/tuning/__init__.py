"""Train a recipe with several LRs and warmups."""

from .halving import Halving
from .processes import Stopped, run_trials
from .run_halving import halve
from .sweep import Sweep, train_all
from .trials import Trial, combinations, finished_run, trial_config, write_config

__all__ = [
    'Halving',
    'Stopped',
    'Sweep',
    'Trial',
    'combinations',
    'finished_run',
    'halve',
    'run_trials',
    'train_all',
    'trial_config',
    'write_config',
]
