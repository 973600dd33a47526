"""End processes whose parent is gone.

A rank ends when its launcher was killed, and a data worker when its trainer was. torch ends the
loop of such a worker, and the worker then waits for ever for a reader of its queue.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.util import register_after_fork
from threading import Thread

# Seconds between two looks at the parent.
INTERVAL = 1.0
# Set by cli/torchrun.py: its process id.
LAUNCHER = 'LARGEBATCH_LAUNCHER'


def watch_parents() -> None:
    """End this rank with its launcher, and every process that it forks with this rank.

    To be called by a tool before anything else. Only processes that ``multiprocessing`` forks are
    meant, such as data workers; what a command starts is left alone.
    """
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher:
        _start(int(launcher))
    register_after_fork(watch_parents, _watch_trainer)


def ending_with_trainer(
    signals: Sequence[int], worker_init_fn: Callable[[int], None] | None
) -> Callable[[int], None]:
    """Let a data worker heed signals only where its trainer sent them, and end with its trainer.

    Args:
        signals (Sequence[int]): Numbers of the signals.
        worker_init_fn (Callable, optional): What the worker does besides at its start.

    Returns:
        Callable[[int], None]: A ``worker_init_fn``.
    """
    return partial(_start_worker, signals, worker_init_fn)


def _start(parent: int) -> None:
    # A thread inherits what is blocked. A signal that it did not block would end the process, also
    # where a data worker blocks that signal in its main thread.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        Thread(target=_end_without, args=(parent,), daemon=True).start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch_trainer(_: object) -> None:
    trainer = multiprocessing.parent_process()
    _start((trainer and trainer.pid) or os.getppid())


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(INTERVAL)
    os._exit(1)


def _start_worker(
    signals: Sequence[int], worker_init_fn: Callable[[int], None] | None, worker: int
) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    Thread(target=_end_with, args=(signals, os.getppid()), daemon=True).start()
    if worker_init_fn is not None:
        worker_init_fn(worker)


def _end_with(signals: Sequence[int], parent: int) -> None:
    """Wait for a signal of the trainer, or for its end."""
    # Under `forkserver` the parent is that server, which ends with the trainer.
    senders = {parent, getattr(multiprocessing.parent_process(), 'pid', parent)}
    while os.getppid() == parent:
        told = signal.sigtimedwait(signals, INTERVAL)
        if told is not None and told.si_pid in senders:
            os._exit(0)
    os._exit(1)
