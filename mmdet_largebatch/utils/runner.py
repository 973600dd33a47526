"""What hooks ask about the run that they are in."""

import json
from pathlib import Path
from typing import TypeVar

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.optim import BaseOptimWrapper
from mmengine.runner import BaseLoop, Runner

from ..compat import train_loop

AnyHook = TypeVar('AnyHook', bound=Hook)
# Record of a start that ended as its config has it, in ``work_dir/<timestamp>``.
ENDED = 'largebatch.json'


def record_end(runner: Runner) -> None:
    """Record that a training ended, for programs: whatever it logged, and to where.

    Args:
        runner (Runner): The runner, whose ``train`` has returned.
    """
    if not is_main_process():
        return
    loop = runner.train_loop
    stopped = bool(getattr(loop, 'stop_training', False)) and loop.epoch < loop.max_epochs
    ended = dict(epoch=loop.epoch, update=loop.iter, stopped_early=stopped)
    try:
        (Path(runner.log_dir) / ENDED).write_text(json.dumps(dict(ended=ended)))
    except OSError as error:
        runner.logger.error(f'{runner.log_dir}/{ENDED} cannot be written ({error.strerror}).')


def is_training(runner: Runner) -> bool:
    """Whether a run is a training, at a time when hooks may be asked before its loop starts.

    Args:
        runner (Runner): The runner; it fires ``before_run`` ahead of ``val`` and ``test`` too.

    Returns:
        bool: True if the train loop and the optimizer are built.
    """
    loop, optim_wrapper = train_loop(runner), runner.optim_wrapper
    return isinstance(loop, BaseLoop) and isinstance(optim_wrapper, BaseOptimWrapper)


def find_hook(runner: Runner, kind: type[AnyHook]) -> AnyHook | None:
    """The run's hook of one class.

    Args:
        runner (Runner): The runner.
        kind (type[Hook]): The class.

    Returns:
        Hook, optional: The first hook of that class, None where there is none.
    """
    return next((hook for hook in runner.hooks if isinstance(hook, kind)), None)
