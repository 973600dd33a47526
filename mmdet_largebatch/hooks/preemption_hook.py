"""Save and exit on SIGTERM or SIGUSR1."""

import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, cast

from mmdet.registry import HOOKS
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from ..checks import invalid
from ..utils.dist import any_rank, barrier, first_message
from ..utils.exit_codes import PREEMPTED, Preempted
from ..utils.orphans import ending_with_trainer
from ..utils.record import write_end
from ..utils.runner import find_hook, is_training
from .atomic_checkpoint_hook import AtomicCheckpointHook


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save and exit when any rank receives a signal that its machine will be taken away.

    The signal sets a flag and interrupts nothing. After the current update, or the current batch
    of an evaluation, the ranks agree that one of them received a signal, and every rank exits with
    status 75. After an update the state is saved, unless the last checkpoint holds it. Before an
    evaluation it is always saved, because hooks such as ``EMAHook`` exchange the weights during
    one. ``torchrun`` with restarts then restarts the run, and ``slurm_train.sh --requeue`` puts
    the job back into the queue. The resumed run continues with the next update, after the last
    epoch's evaluation if that was not finished. Further signals change nothing.

    Data workers ignore the same signals, unless their own trainer sends them: some schedulers
    signal all processes of a job at once.

    Args:
        signals (Sequence[str]): Names of the signals. Defaults to ``('SIGTERM', 'SIGUSR1')``, what
            ``torchrun``, Slurm (at the end of a job's time, and by ``--signal``) and container
            platforms send.

    Raises:
        SettingError: If a signal has no such name, or ``default_hooks.checkpoint`` is not an
            :class:`AtomicCheckpointHook` when a training begins.

    Examples:
        >>> from mmdet.registry import HOOKS
        >>> default_hooks = dict(
        ...     checkpoint=dict(type='AtomicCheckpointHook'),
        ...     preemption=dict(type='PreemptionHook', signals=['SIGUSR1']))
        >>> HOOKS.build(default_hooks['preemption']).signals
        [<Signals.SIGUSR1: 10>]
    """

    priority = 'LOWEST'
    _checkpoints: AtomicCheckpointHook

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1')) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown or isinstance(signals, str):
            name = f'{type(self).__name__}.signals'
            raise invalid(name, signals, "a list of names such as 'SIGTERM'")
        self.signals = [signal.Signals[name] for name in signals]
        self._signal_received: int | None = None
        self._handlers: dict = {}

    def before_run(self, runner: Runner) -> None:
        """Find the checkpoint hook.

        Args:
            runner (Runner): The runner.

        Raises:
            SettingError: See the class.
        """
        if not is_training(runner):
            return
        checkpoints = find_hook(runner, AtomicCheckpointHook)
        if checkpoints is None:
            stock = find_hook(runner, CheckpointHook)
            raise invalid(
                'default_hooks.checkpoint.type',
                stock and type(stock).__name__,
                "'AtomicCheckpointHook': default_hooks.preemption saves by it",
            )
        checkpoints.save_before_evaluations = True

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers.

        Args:
            runner (Runner): The runner.
        """
        self._checkpoints = cast(AtomicCheckpointHook, find_hook(runner, AtomicCheckpointHook))
        self._signal_received = None
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_dataloader)
        for loader in loaders:
            loader.worker_init_fn = ending_with_trainer(self.signals, loader.worker_init_fn)
        self._handlers = {number: signal.signal(number, self._note) for number in self.signals}

    def after_train(self, runner: Runner) -> None:
        """Restore the signal handlers.

        Args:
            runner (Runner): The runner.
        """
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Exit between two updates, if a rank received a signal.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Not used.
            data_batch (Any): Not used.
            outputs (dict, optional): Not used.
        """
        self._exit_if_signaled(runner, runner.iter + 1, self._checkpoints.save_now)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Exit between two batches of an evaluation, if a rank received a signal.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Not used.
            data_batch (Any): Not used.
            outputs (Sequence, optional): Not used.
        """
        if self._handlers:
            self._exit_if_signaled(runner, runner.iter, self._checkpoints.saved_already)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal_received = number

    def _exit_if_signaled(
        self, runner: Runner, update: int, find: Callable[[Runner, int], str | None]
    ) -> None:
        if not any_rank(self._signal_received is not None):
            return
        own = ''
        if self._signal_received is not None:
            own = f'{signal.Signals(self._signal_received).name} on rank {runner.rank}'
        what = first_message(own)
        path = find(runner, update)
        saved = f'update {update} is saved in {path}' if path else 'the state could not be saved'
        line = f'Preempted ({what}): {saved}. Exit with status {PREEMPTED}; --resume goes on.'
        runner.logger.info(line)
        write_end(runner, 'preempted', update, runner.epoch, line)
        # torchrun ends the other ranks as soon as one has exited.
        barrier()
        raise Preempted
