"""Trainings of one recipe with several LRs and warmups, each in a folder of its own."""

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
