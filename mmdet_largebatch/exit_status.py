"""With what status a training ends; the scripts and the schedulers that start it act on it."""

import os
import sys
from pathlib import Path
from typing import NoReturn

WRONG_SETTING = 2
DIVERGED = 3
# EX_TEMPFAIL of sysexits.h: try again.
PREEMPTED = 75

# Set by tools/launch.py: a file whose content is to be the launcher's own status.
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
    file = os.environ.get(STATUS_FILE)
    if file and os.environ.get('LOCAL_RANK') == '0':
        Path(file).write_text(str(status))
    sys.exit(0 if file and not again else status)


def begin_anew() -> None:
    """Forget what an earlier start of the same training told the launcher."""
    file = os.environ.get(STATUS_FILE)
    if file and os.environ.get('LOCAL_RANK') == '0':
        Path(file).unlink(missing_ok=True)
