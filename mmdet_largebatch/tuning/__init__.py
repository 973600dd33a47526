"""Train a recipe with several LRs and warmups."""

from .processes import Stopped, run_trials
from .trials import Trial, combinations, finished_run, trial_config, write_config

__all__ = [
    'Stopped',
    'Trial',
    'combinations',
    'finished_run',
    'run_trials',
    'trial_config',
    'write_config',
]
