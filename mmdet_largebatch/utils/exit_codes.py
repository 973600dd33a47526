"""Exit codes of a training run, for the scripts and schedulers that start it."""

import os
import sys
from pathlib import Path
from typing import NoReturn

WRONG_SETTING = 2
DIVERGED = 3
# EX_TEMPFAIL of sysexits.h: try again.
PREEMPTED = 75

# Set by tools/launch.py: a file that tells the launcher its own exit code, and whether a restart
# is of use.
STATUS_FILE = 'LARGEBATCH_STATUS_FILE'


def leave(status: int, again: bool) -> NoReturn:
    """End this process. To be called on all ranks.

    Under ``torchrun`` a process that fails is started again while there are restarts left. So
    where that would be of no use the launcher is told the status and this process ends with 0.

    Args:
        status (int): The status that the training ends with.
        again (bool): Whether starting it again is of use.

    Raises:
        SystemExit: Always.
    """
    tell_launcher(status, again)
    sys.exit(0 if os.environ.get(STATUS_FILE) and not again else status)


def tell_launcher(status: int, again: bool) -> bool:
    """Write the exit code of the run for the launcher, unless another rank did so already.

    Args:
        status (int): The status that the run ends with.
        again (bool): Whether starting it again is of use.

    Returns:
        bool: True if this rank is the one that speaks: the first that wrote, or without
        ``tools/launch.py`` the first of its machine.
    """
    file = os.environ.get(STATUS_FILE)
    if not file:
        return os.environ.get('LOCAL_RANK', '0') == '0'
    try:
        with open(file, 'x') as stream:
            stream.write(f'{status} {"again" if again else "final"}')
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
