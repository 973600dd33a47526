"""Bring a running training to the state that a restarted process would have."""

from typing import Any

from mmengine.hooks import EMAHook, IterTimerHook, RuntimeInfoHook
from mmengine.runner import Runner

from ..compat import resumed_keys, resumes, set_resume, stop_workers, switched, undo_switch
from ..utils.runner import plain_model


class Switches:
    """The initial state of what ``PipelineSwitchHook`` and ``YOLOXModeSwitchHook`` switch.

    The hooks switch once in a process and never back.

    Args:
        runner (Runner): The runner, before the first epoch of this process.
    """

    def __init__(self, runner: Runner) -> None:
        self._hooks = [hook for hook in runner.hooks if switched(hook) is not None]
        self._before: list[tuple[Any, dict[str, Any]]] = []
        if self._hooks:
            self._keep(runner.train_dataloader.dataset, 'pipeline', '_skip_type_keys')
            for module in plain_model(runner.model).modules():
                self._keep(module, 'use_l1')

    def _keep(self, owner: Any, *names: str) -> None:
        values = {name: getattr(owner, name) for name in names if hasattr(owner, name)}
        if values:
            self._before.append((owner, values))

    def put_back(self, runner: Runner) -> None:
        """Undo the switches; a hook that is due switches again when the epoch begins.

        Args:
            runner (Runner): The runner.
        """
        if not any(map(switched, self._hooks)):
            return
        for owner, values in self._before:
            for name, value in values.items():
                setattr(owner, name, value)
        for hook in self._hooks:
            undo_switch(hook)
        # Workers hold copies of the data set.
        stop_workers(runner.train_dataloader)


def roll_back(runner: Runner, path: str, switches: Switches) -> None:
    """Resume within a run from one of its checkpoints.

    Hooks that keep more than the message hub does have the point ``after_rollback(runner)``.

    Args:
        runner (Runner): The runner.
        path (str): The checkpoint.
        switches (Switches): Of the start of this process.
    """
    hub = runner.message_hub
    # What was noted since the checkpoint.
    kept = resumed_keys(hub)
    for noted in (hub.log_scalars, hub.runtime_info):
        for key in [key for key in noted if kept.get(key)]:
            noted.pop(key)
            kept.pop(key)
    for hook in runner.hooks:
        if isinstance(hook, EMAHook) and hasattr(hook.ema_model, 'steps'):
            # A checkpoint without an average leaves the count alone.
            hook.ema_model.steps.zero_()
    started_by_resuming = resumes(runner)
    set_resume(runner, True)
    try:
        runner.resume(path)
    finally:
        set_resume(runner, started_by_resuming)
    runner.optim_wrapper.initialize_count_status(runner.model, runner.iter, runner.max_iters)
    switches.put_back(runner)
    for hook in runner.hooks:
        if isinstance(hook, IterTimerHook):
            hook.time_sec_tot = 0
        if isinstance(hook, (IterTimerHook, RuntimeInfoHook)):
            hook.before_train(runner)
    runner.call_hook('after_rollback')
