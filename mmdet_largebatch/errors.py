"""User errors. The command-line tools print their message, one line, without a traceback."""


class SettingError(ValueError):
    """An invalid setting. The message names the setting, its value and the valid values."""

    # True if every process that meets it prints it, else the first one of a machine.
    alone = False


class PictureError(SettingError):
    """A picture that cannot be read.

    Args:
        message (str): One line, or the traceback of a data worker that ends with this line.
    """

    # Only one rank meets this error.
    alone = True

    def __init__(self, message: str) -> None:
        *traceback, line = message.rstrip().splitlines()
        super().__init__(line.split(': ', 1)[1] if traceback else line)


class DivergenceError(RuntimeError):
    """A training diverged and was stopped."""
