"""Exit codes of a training run, for the scripts and schedulers that start it."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from .local_rank import is_first_of_machine

WRONG_SETTING = 2
DIVERGED = 3
# EX_TEMPFAIL of sysexits.h: try again.
PREEMPTED = 75
# Set by cli/torchrun.py: a file for the exit code of the launcher, and whether to restart.
STATUS_FILE = 'LARGEBATCH_STATUS_FILE'


class Preempted(SystemExit):
    """Exit with status 75, from a machine that will be taken away."""

    code: int

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


def exit_training(status: int, restart: bool) -> NoReturn:
    """Exit this process. Called on all ranks.

    ``torchrun`` restarts a process that fails, while it has restarts left. If a restart cannot
    help, the launcher reads the status from a file, and this process exits with 0.

    Args:
        status (int): Exit code of the run.
        restart (bool): True if a restart can help.

    Raises:
        SystemExit: Always.
    """
    tell_launcher(status, restart)
    sys.exit(0 if os.environ.get(STATUS_FILE) and not restart else status)


def tell_launcher(status: int, restart: bool) -> bool:
    """Write the exit code of the run for the launcher, unless another rank has done so.

    Args:
        status (int): Exit code of the run.
        restart (bool): True if a restart can help.

    Returns:
        bool: True if this rank prints the error: the first rank that wrote, or without
        ``cli/torchrun.py`` the first rank of the machine.
    """
    file = os.environ.get(STATUS_FILE)
    if not file:
        return is_first_of_machine()
    try:
        with open(file, 'x') as stream:
            stream.write(f'{status} {"again" if restart else "final"}')
    except FileExistsError:
        return False
    return True


def final_status() -> int | None:
    """Return the exit code of another rank of this machine that ended the run, if any."""
    file = os.environ.get(STATUS_FILE)
    words = Path(file).read_text().split() if file and os.path.exists(file) else []
    return int(words[0]) if words[1:] == ['final'] else None
