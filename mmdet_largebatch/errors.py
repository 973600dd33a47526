"""Errors whose message says all there is to know, in one line.

The command-line tools print that line without a traceback.
"""


class SettingError(ValueError):
    """A setting that cannot be used.

    The message names the setting, its value and what would be right. In Python it is a
    ``ValueError``.
    """


class DivergenceError(RuntimeError):
    """A training that was stopped because it diverged."""


class RolledBack(Exception):
    """Takes the train loop out of an epoch after a hook has put the run back to an earlier update.

    It is not an error: :class:`GlobalBatchTrainLoop` goes on from where the run stands now.
    """
