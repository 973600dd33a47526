"""End a training whose evaluation fails again after a restart."""

import os
import sys
from pathlib import Path
from traceback import walk_tb

from mmengine.runner import ValLoop

from ..utils.exit_codes import STATUS_FILE, tell_launcher


def end_if_failed_again(error: Exception) -> None:
    """Tell the launcher not to restart if the evaluation failed in the same way before.

    A restart begins with the evaluation that the start before did not finish. An error of a metric
    or of its settings would come again at every restart. Errors that a restart may pass are left
    out: those of the network, of lost data workers, of files, of memory and of the GPU.

    Args:
        error (Exception): The error that ends this process.
    """
    file, update = os.environ.get(STATUS_FILE), _evaluated(error)
    if not file or update is None:
        return
    failure = f'{update} {type(error).__qualname__}'
    # Beside the status file, so that it lasts as long as the launcher of this machine.
    before = Path(f'{file}_evaluation')
    if before.exists() and before.read_text() == failure:
        if tell_launcher(1, restart=False):
            print(
                f'error: the evaluation after update {update} ended in {type(error).__name__} '
                'again, as before the restart. There is no further restart.',
                file=sys.stderr,
                flush=True,
            )
    else:
        before.write_text(failure)


def _evaluated(error: Exception) -> int | None:
    """Return the update whose evaluation an error ended; None for any other error."""
    update, text = None, str(error)
    of_machine = isinstance(error, (OSError, MemoryError)) or 'CUDA' in text
    if of_machine or text.startswith('DataLoader worker (pid'):
        return None
    for frame, _ in walk_tb(error.__traceback__):
        loop = frame.f_locals.get('self')
        if isinstance(loop, ValLoop):
            update = loop.runner.iter
        elif frame.f_globals.get('__name__', '').startswith(('torch.distributed', 'mmengine.dist')):
            return None
    return update
