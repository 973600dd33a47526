"""End processes whose parent was killed: ranks of a launcher, data workers of a trainer.

PyTorch ends the loop of such a worker, which then waits forever for a reader of its queue.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.util import register_after_fork
from threading import Thread

# Seconds between two checks of the parent.
INTERVAL = 1.0
# Set by cli/torchrun.py: its process id.
LAUNCHER = 'LARGEBATCH_LAUNCHER'


def watch_parents() -> None:
    """End this rank with its launcher, and every process that it forks with this rank.

    A tool calls this before anything else. It applies to processes that ``multiprocessing`` forks,
    such as data workers, not to commands.
    """
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher:
        _start(int(launcher))
    register_after_fork(watch_parents, _watch_trainer)


def ending_with_trainer(
    signals: Sequence[int], worker_init_fn: Callable[[int], None] | None
) -> Callable[[int], None]:
    """Make a data worker end with its trainer, and ignore signals of any other sender.

    Args:
        signals (Sequence[int]): The signals.
        worker_init_fn (Callable, optional): The user's ``worker_init_fn``.

    Returns:
        Callable[[int], None]: A ``worker_init_fn``.
    """
    return partial(_start_worker, signals, worker_init_fn)


def _start(parent: int) -> None:
    # The thread inherits the blocked signals. A signal that one thread does not block would end a
    # data worker that blocks it in its main thread.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        Thread(target=_end_with, args=((), parent), daemon=True).start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch_trainer(_: object) -> None:
    trainer = multiprocessing.parent_process()
    _start((trainer and trainer.pid) or os.getppid())


def _start_worker(
    signals: Sequence[int], worker_init_fn: Callable[[int], None] | None, worker: int
) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    Thread(target=_end_with, args=(signals, os.getppid()), daemon=True).start()
    if worker_init_fn is not None:
        worker_init_fn(worker)


def _end_with(signals: Sequence[int], parent: int) -> None:
    """Wait for a signal from the parent, or for its end."""
    # Under `forkserver` the parent is that server, which ends with the trainer.
    senders = {parent, getattr(multiprocessing.parent_process(), 'pid', parent)}
    while os.getppid() == parent:
        received = signal.sigtimedwait(signals, INTERVAL)
        if received is not None and received.si_pid in senders:
            os._exit(0)
    os._exit(1)
