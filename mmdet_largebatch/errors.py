"""Errors whose message says all there is to know, in one line.

The command-line tools print that line without a traceback.
"""


class SettingError(ValueError):
    """A setting that cannot be used.

    The message names the setting, its value and what would be right. In Python it is a
    ``ValueError``.
    """


class PictureError(SettingError):
    """A picture that cannot be read. It may come up on one rank alone.

    Args:
        message (str): One line, or the traceback of a data worker that ends with it.
    """

    # Met by one rank, which tells it, whatever rank it is.
    alone = True

    def __init__(self, message: str) -> None:
        *traceback, line = message.rstrip().splitlines()
        super().__init__(line.split(': ', 1)[1] if traceback else line)


class DivergenceError(RuntimeError):
    """A training diverged and was stopped."""
