"""Signals of torchrun.py: forward them to the ranks, and wait for the last save.

torch itself forwards SIGUSR1 since 2.10, and waits longer than 30 s since 2.12. It forwards SIGHUP
as SIGHUP, on which no rank saves, and it does so under ``nohup`` as well.
"""

import signal
from types import FrameType

from torch.distributed.elastic import multiprocessing
from torch.distributed.elastic.multiprocessing import SignalException, SubprocessContext

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)


class SavingContext(SubprocessContext):
    """The ranks of this machine, with time for the last save after a signal to torchrun."""

    shutdown_seconds: int
    ignores_hangup: bool
    signal_received = False

    def _start(self) -> None:
        # After torch's own handlers, and before the ranks, which inherit an ignored SIGHUP.
        for number in SIGNALS:
            ignored = number == signal.SIGHUP and self.ignores_hangup
            signal.signal(number, signal.SIG_IGN if ignored else _shut_down)
        super()._start()

    def close(self, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        """Signal the ranks, and kill those that do not exit in time.

        Args:
            death_sig (signal.Signals, optional): The signal. Defaults to None, SIGTERM.
            timeout (int): Seconds to wait if torchrun received no signal. Defaults to 30.
        """
        super().close(death_sig, self.shutdown_seconds if self.signal_received else timeout)


def _shut_down(number: int, frame: FrameType | None) -> None:
    """End torchrun, with SIGTERM to the ranks in place of SIGHUP."""
    # A closed terminal sends several signals. The second one would end torchrun during the save.
    if SavingContext.signal_received and number not in (signal.SIGINT, signal.SIGQUIT):
        return
    SavingContext.signal_received = True
    forwarded = signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
    raise SignalException(f'Received {signal.Signals(number).name}', forwarded)


def register(shutdown_seconds: int) -> None:
    """Let torchrun start its ranks in a :class:`SavingContext`.

    Args:
        shutdown_seconds (int): Time for the last save after a signal.
    """
    SavingContext.shutdown_seconds = shutdown_seconds
    SavingContext.ignores_hangup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    multiprocessing.SubprocessContext = SavingContext  # type: ignore[misc]
