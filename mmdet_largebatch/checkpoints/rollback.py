"""Put a running training back to a checkpoint, as a restarted process would be."""

from typing import Any

from mmengine.hooks import EMAHook, IterTimerHook, RuntimeInfoHook
from mmengine.runner import Runner

from ..compat import resumed_keys, resumes, set_resume, stop_workers, switched, undo_switch
from ..utils.runner import plain_model


class RolledBack(Exception):
    """Raised by a hook that has put the run back to an earlier update.

    :class:`GlobalBatchTrainLoop` catches it and continues from there.
    """


class Switches:
    """The switches of ``PipelineSwitchHook`` and ``YOLOXModeSwitchHook``, and how to undo them.

    These hooks switch once in a process and never back. Built before the first epoch of a process.
    """

    def __init__(self, runner: Runner) -> None:
        self._hooks = [hook for hook in runner.hooks if switched(hook) is not None]
        self._before: list[tuple[Any, dict[str, Any]]] = []
        if self._hooks:
            dataset = runner.train_dataloader.dataset
            for owner in (dataset, *plain_model(runner.model).modules()):
                fields = ('pipeline', '_skip_type_keys') if owner is dataset else ('use_l1',)
                values = {name: getattr(owner, name) for name in fields if hasattr(owner, name)}
                self._before.append((owner, values))

    def undo(self, runner: Runner) -> None:
        """Undo the switches. A hook that is due switches again when the epoch begins."""
        if not any(map(switched, self._hooks)):
            return
        for owner, values in self._before:
            for name, value in values.items():
                setattr(owner, name, value)
        for hook in self._hooks:
            undo_switch(hook)
        # Workers hold copies of the dataset.
        stop_workers(runner.train_dataloader)


def roll_back(runner: Runner, path: str, switches: Switches) -> None:
    """Resume within a run from one of its checkpoints, then call the hooks' ``after_rollback``."""
    hub = runner.message_hub
    # Drop what was recorded since the checkpoint.
    kept = resumed_keys(hub)
    for recorded in (hub.log_scalars, hub.runtime_info):
        for key in [key for key in recorded if kept.get(key)]:
            recorded.pop(key)
            kept.pop(key)
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and hasattr(hook.ema_model, 'steps'):
            # A checkpoint without an average does not reset the count.
            hook.ema_model.steps.zero_()
    started_by_resuming = resumes(runner)
    set_resume(runner, True)
    try:
        runner.resume(path)
    finally:
        set_resume(runner, started_by_resuming)
    runner.optim_wrapper.initialize_count_status(runner.model, runner.iter, runner.max_iters)
    switches.undo(runner)
    for hook in runner.hooks:
        if isinstance(hook, IterTimerHook):
            hook.time_sec_tot = 0
        if isinstance(hook, (IterTimerHook, RuntimeInfoHook)):
            hook.before_train(runner)
    runner.call_hook('after_rollback')
