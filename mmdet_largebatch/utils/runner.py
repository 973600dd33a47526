"""Find parts of a run, for hooks."""

from typing import Any, TypeVar, cast

from mmdet.registry import LOOPS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import BaseOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn

from ..checks import check
from ..compat import train_loop

AnyHook = TypeVar('AnyHook', bound=Hook)


def is_training(runner: Runner) -> bool:
    """Return True if a run is a training. MMEngine calls ``before_run`` of tests too."""
    loop, optim_wrapper = train_loop(runner), runner.optim_wrapper
    return isinstance(loop, BaseLoop) and isinstance(optim_wrapper, BaseOptimWrapper)


def check_loop(runner: Runner, why: str) -> Any:
    """Refuse a training by another loop than ``GlobalBatchTrainLoop``.

    Args:
        runner (Runner): The runner of a training.
        why (str): Why a hook needs it, to end the error.

    Returns:
        GlobalBatchTrainLoop: The loop.
    """
    loop = train_loop(runner)
    # Its import would be circular: the loop imports hooks.
    ok = isinstance(loop, LOOPS.get('GlobalBatchTrainLoop'))
    check(ok, 'train_cfg.type', type(loop).__name__, f"'GlobalBatchTrainLoop': {why}")
    return loop


def repeats_epochs(runner: Runner) -> bool:
    """Return True for a loop that repeats an epoch that it resumes within.

    MMEngine's ``EpochBasedTrainLoop`` does, and counts the repeated updates on.
    """
    loop = train_loop(runner)
    return isinstance(loop, EpochBasedTrainLoop) and not isinstance(
        loop, LOOPS.get('GlobalBatchTrainLoop')
    )


def find_hook(runner: Runner, kind: type[AnyHook]) -> AnyHook | None:
    """Return the first hook of a class; None if there is none."""
    return next((hook for hook in runner.hooks if isinstance(hook, kind)), None)


def plain_model(model: nn.Module) -> nn.Module:
    """Return a model without its wrapper (DDP)."""
    return cast(nn.Module, model.module) if is_model_wrapper(model) else model


def has_one_optimizer(optim_wrapper: BaseOptimWrapper) -> bool:
    """Return False for several optimizers: ``OptimWrapperDict`` is an ``OptimWrapper`` too."""
    return isinstance(optim_wrapper, OptimWrapper) and not isinstance(
        optim_wrapper, OptimWrapperDict
    )


def optimizer_name(optim_wrapper: BaseOptimWrapper) -> str:
    """Return the type of the optimizer; several are separated by commas."""
    wrappers = [optim_wrapper]
    if isinstance(optim_wrapper, OptimWrapperDict):
        wrappers = list(optim_wrapper.values())
    return ', '.join(type(wrapper.optimizer).__name__ for wrapper in wrappers)


def loss_scale(optim_wrapper: BaseOptimWrapper) -> float:
    """Return the factor of the gradients under loss scaling.

    Args:
        optim_wrapper (BaseOptimWrapper): The wrapper, an ``AmpOptimWrapper`` or another.

    Returns:
        float: The scale, 1 without loss scaling. Above 1 an infinite gradient may be the scale's
        doing, and the scaler skips the step.
    """
    scaler = getattr(optim_wrapper, 'loss_scaler', None)
    return 1.0 if scaler is None else scaler.get_scale()
