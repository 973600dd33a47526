"""Exit codes of a training run, for the scripts and schedulers that start it."""

import os
import sys
from pathlib import Path
from typing import NoReturn

WRONG_SETTING = 2
DIVERGED = 3
# EX_TEMPFAIL of sysexits.h: try again.
PREEMPTED = 75

# Set by cli/torchrun.py: a file that tells the launcher its own exit code, and whether a restart
# is of use.
STATUS_FILE = 'LARGEBATCH_STATUS_FILE'


class Preempted(SystemExit):
    """Exits a training whose machine is about to be taken away, with status 75."""

    code: int

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


def exit_training(status: int, restart: bool) -> NoReturn:
    """Exit this process. To be called on all ranks.

    ``torchrun`` restarts a process that fails while it has restarts left. Where a restart cannot
    help, the launcher gets the status by a file, and this process exits with 0.

    Args:
        status (int): Exit code of the run.
        restart (bool): Whether a restart can help.

    Raises:
        SystemExit: Always.
    """
    tell_launcher(status, restart)
    sys.exit(0 if os.environ.get(STATUS_FILE) and not restart else status)


def tell_launcher(status: int, restart: bool) -> bool:
    """Write the exit code of the run for the launcher, unless another rank did so already.

    Args:
        status (int): Exit code of the run.
        restart (bool): Whether a restart can help.

    Returns:
        bool: True if this rank is the one that speaks: the first that wrote, or without
        ``cli/torchrun.py`` the first of its machine.
    """
    file = os.environ.get(STATUS_FILE)
    if not file:
        return os.environ.get('LOCAL_RANK', '0') == '0'
    try:
        with open(file, 'x') as stream:
            stream.write(f'{status} {"again" if restart else "final"}')
    except FileExistsError:
        return False
    return True


def final_status() -> int | None:
    """Read the status after which another rank of this machine wants no restart.

    Returns:
        int, optional: The status, None where there is none.
    """
    file = os.environ.get(STATUS_FILE)
    words = Path(file).read_text().split() if file and os.path.exists(file) else []
    return int(words[0]) if words[1:] == ['final'] else None
