"""The hook that ends a training in good order when it is told to go."""

import signal
from collections.abc import Callable, Sequence

from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..errors import SettingError
from ..utils.dist import Agreement
from ..utils.exit_codes import PREEMPTED, leave
from ..utils.orphans import ending_with_trainer
from ..utils.runner import find_hook, is_training
from .atomic_checkpoint_hook import AtomicCheckpointHook


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save and leave when a signal tells any rank that its machine will be taken away.

    The signal sets a flag and interrupts nothing. When the update that is being computed is
    finished, or the batch of an evaluation, the ranks agree that one of them was told, and every
    rank exits with status 75. After an update the state is saved, unless the last checkpoint holds
    it. Before an evaluation it was saved already: within one, hooks such as ``EMAHook`` have other
    weights in the model. Under
    ``torchrun`` with restarts that starts the training again, and ``slurm_train.sh --requeue`` puts
    the job back into the queue; resumed, it goes on with the next update, after the evaluation of
    the last epoch if that was not finished. Further signals change nothing.

    The same signals do not end data workers, unless their own trainer sends them: some schedulers
    signal all processes of a job at once.

    Args:
        signals (Sequence[str]): Names of the signals. Defaults to ``('SIGTERM', 'SIGUSR1')``, what
            ``torchrun``, Slurm (at the end of a job's time, and by ``--signal``) and container
            platforms send.

    Raises:
        SettingError: If a signal has no such name, or ``default_hooks.checkpoint`` is not an
            :class:`AtomicCheckpointHook` when a training begins.
    """

    priority = 'LOWEST'

    def __init__(self, signals: Sequence[str] = ('SIGTERM', 'SIGUSR1')) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown or isinstance(signals, str):
            raise SettingError(
                f'PreemptionHook: signals={signals!r}. Must be a list of names such as SIGTERM.'
            )
        self.signals = [signal.Signals[name] for name in signals]
        self._told: int | None = None
        self._handlers: dict = {}

    def before_run(self, runner: Runner) -> None:
        """Look for what saves.

        Args:
            runner (Runner): The runner.

        Raises:
            SettingError: See the class.
        """
        if not is_training(runner):
            return
        checkpoints = find_hook(runner, AtomicCheckpointHook)
        if checkpoints is None:
            raise SettingError(
                'default_hooks.preemption=PreemptionHook saves by default_hooks.checkpoint. Its '
                "type must be 'AtomicCheckpointHook'."
            )
        checkpoints.save_before_evaluations = True

    def before_train(self, runner: Runner) -> None:
        """Begin to listen.

        Args:
            runner (Runner): The runner.
        """
        self._checkpoints = find_hook(runner, AtomicCheckpointHook)
        self._agreement = Agreement()
        self._told = None
        loaders = [runner.train_dataloader]
        if runner.val_loop is not None:
            loaders.append(runner.val_dataloader)
        for loader in loaders:
            loader.worker_init_fn = ending_with_trainer(self.signals, loader.worker_init_fn)
        self._handlers = {number: signal.signal(number, self._note) for number in self.signals}

    def after_train(self, runner: Runner) -> None:
        """Stop listening.

        Args:
            runner (Runner): The runner.
        """
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def after_train_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Leave between two updates, if a rank was told to.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Not used.
            data_batch (Any): Not used.
            outputs (dict, optional): Not used.
        """
        self._leave_if_told(runner, runner.iter + 1, self._checkpoints.save_now)

    def after_val_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Leave between two batches of an evaluation, if a rank was told to.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Not used.
            data_batch (Any): Not used.
            outputs (Sequence, optional): Not used.
        """
        if self._handlers:
            self._leave_if_told(runner, runner.iter, self._checkpoints.saved_already)

    def _note(self, number: int, frame) -> None:
        self._told = number

    def _leave_if_told(
        self, runner: Runner, update: int, find: Callable[[Runner, int], str | None]
    ) -> None:
        if not self._agreement.any(self._told is not None):
            return
        what = self._agreement.first(
            '' if self._told is None else f'{signal.Signals(self._told).name} on rank {runner.rank}'
        )
        path = find(runner, update)
        saved = f'update {update} is saved in {path}' if path else 'the state could not be saved'
        runner.logger.info(
            f'Preempted ({what}): {saved}. Exit with status {PREEMPTED}; --resume goes on.'
        )
        # torchrun ends the other ranks as soon as one has left.
        self._agreement.wait()
        leave(PREEMPTED, again=True)
