"""Save and exit on SIGTERM or SIGUSR1."""

import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn, cast
from weakref import ref

from mmdet.registry import HOOKS
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from ..checks import check
from ..utils.dist import any_rank, barrier, first_message, from_main_process, minimum
from ..utils.exit_codes import PREEMPTED, Preempted
from ..utils.orphans import ending_with_trainer
from ..utils.record import write_end
from ..utils.runner import find_hook, is_training, repeats_epochs
from .atomic_checkpoint_hook import AtomicCheckpointHook


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save and exit when any rank receives SIGTERM or SIGUSR1.

    The signal only sets a flag. At the end of the current update all ranks agree, save the state
    and exit with status 75. In an evaluation they exit at the end of the current batch. The state
    was saved before the evaluation, because hooks such as ``EMAHook`` have other weights in the
    model during it. An evaluation that a user's hook runs within an update is finished first.
    Further signals change nothing.

    ``torchrun`` with restarts then restarts the run, and ``slurm_train.sh --requeue`` puts the job
    back into the queue. Under :class:`GlobalBatchTrainLoop` the resumed run repeats an evaluation
    that was not finished, and continues with the next update. MMEngine's ``EpochBasedTrainLoop``
    cannot continue within an epoch: nothing is saved there, and the last line names the newest
    checkpoint.

    Some schedulers signal all processes of a job at once. Data workers therefore ignore these
    signals, unless their own trainer sends them.

    The handlers of before are restored at the end of the training. After an error that ends it, a
    signal reaches them too. In another thread than the main one the hook does nothing, which the
    log says.

    Args:
        signals (Sequence[str]): Names of the signals. ``torchrun``, Slurm and container platforms
            send the default ones. Defaults to ``('SIGTERM', 'SIGUSR1')``.

    Raises:
        SettingError: If a name is not a signal. When a training begins: if
            ``default_hooks.checkpoint`` is not an :class:`AtomicCheckpointHook`.

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
        ok = not unknown and not isinstance(signals, str)
        check(ok, f'{type(self).__name__}.signals', signals, "a list of names such as 'SIGTERM'")
        self.signals = [signal.Signals[name] for name in signals]
        self._signal_received: int | None = None
        self._handlers: dict = {}
        self._exits = False
        # Batches of an evaluation that every rank has.
        self._shared_batches = 0

    def before_run(self, runner: Runner) -> None:
        """Find the checkpoint hook."""
        if not is_training(runner):
            return
        hook = find_hook(runner, AtomicCheckpointHook) or find_hook(runner, CheckpointHook)
        ok = isinstance(hook, AtomicCheckpointHook)
        wanted = "'AtomicCheckpointHook': default_hooks.preemption saves by it"
        check(ok, 'default_hooks.checkpoint.type', hook and type(hook).__name__, wanted)
        self._checkpoints = cast(AtomicCheckpointHook, hook)
        self._checkpoints.save_before_evaluations = True

    def before_train(self, runner: Runner) -> None:
        """Install the signal handlers."""
        self._signal_received = None
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning(
                f'{type(self).__name__} does nothing: Python receives signals in the main thread '
                'of a process, and this training runs in another one.'
            )
            return
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_dataloader)
        for loader in loaders:
            loader.worker_init_fn = ending_with_trainer(self.signals, loader.worker_init_fn)
        for number in self.signals:
            other = getattr(signal.getsignal(number), '__self__', None)
            if isinstance(other, PreemptionHook):
                # An error has ended its training.
                other.after_train(runner)
        # The loop would keep the model in memory after an error.
        self._loop, self._exits = ref(runner.train_loop), False
        self._handlers = {number: signal.signal(number, self._note) for number in self.signals}

    def after_train(self, runner: Runner) -> None:
        """Restore the signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Exit between two updates, if a rank received a signal."""
        if any_rank(self._signal_received is not None):
            update = runner.iter + 1
            self._exit(runner, update, self._checkpoints.save_now(runner, update))

    def before_val_epoch(self, runner: Runner) -> None:
        """Count the batches that every rank has: a sampler may give one rank more than another."""
        if self._handlers:
            self._shared_batches = minimum(len(runner.val_dataloader))

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Exit between two batches of an evaluation, if a rank received a signal."""
        if not self._handlers or batch_idx >= self._shared_batches:
            return
        if self._checkpoints.in_update(runner):
            # A user's hook evaluates. The state is saved once the update is counted.
            return
        if any_rank(self._signal_received is not None):
            self._exit(runner, runner.iter, self._checkpoints.saved(runner.iter))

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._exits or self._is_within_training(frame):
            self._signal_received = number
            return
        # A script or a notebook has caught the error that ended the training.
        for other, handler in self._handlers.items():
            signal.signal(other, handler)
        os.kill(os.getpid(), number)

    def _is_within_training(self, frame: FrameType | None) -> bool:
        loop = self._loop()
        while loop is not None and frame is not None:
            if frame.f_locals.get('self') is loop:
                return True
            frame = frame.f_back
        return False

    def _exit(self, runner: Runner, update: int, path: str | None) -> NoReturn:
        own, self._exits = '', True
        if self._signal_received is not None:
            own = f'{signal.Signals(self._signal_received).name} on rank {runner.rank}'
        saved = f'update {update} is saved in {path}'
        if path is None:
            why = 'the state could not be saved'
            if repeats_epochs(runner):
                why = f'{type(runner.train_loop).__name__} cannot continue within an epoch'
            newest = from_main_process(self._checkpoints.newest)
            saved = f'{why}; the newest checkpoint: {newest or "none yet"}'
        line = (
            f'Preempted ({first_message(own)}): {saved}. Exit with status {PREEMPTED}; --resume '
            'continues.'
        )
        runner.logger.info(line)
        write_end(runner, 'preempted', update, runner.epoch, line)
        # torchrun ends the other ranks as soon as one has exited.
        barrier()
        raise Preempted
