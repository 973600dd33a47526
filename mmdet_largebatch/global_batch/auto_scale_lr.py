"""MMDetection's ``auto_scale_lr`` for the global batch."""

from typing import Any

from mmengine.optim import BaseOptimWrapper
from mmengine.runner import Runner
from torch.optim import Optimizer

from ..checks import check, check_positive_integer
from ..hooks.warmup_step_lr_hook import WarmupStepLRHook
from ..schedulers.scaling import scale_factor, scale_rule_of
from ..utils.runner import find_hook
from ..utils.type_names import type_name


def follow_auto_scale_lr(runner: Runner, global_batch_size: int) -> None:
    """Scale the LR by the global batch, where ``auto_scale_lr`` is enabled.

    MMEngine scales linearly, by ranks times batch size. Here the factor is that of
    ``scale_rule``: the global batch divided by ``base_batch_size``, or its square root for LAMB,
    Adam and AdamW. A :class:`WarmupStepLRHook` does this itself, as if ``scale_rule`` was set.

    Args:
        runner (Runner): The runner, before it builds the optimizer.
        global_batch_size (int): Images of an update.

    Raises:
        SettingError: If no rule is known for the optimizer, the base batch is invalid, or the hook
            scales the LR already.
    """
    stock = runner.auto_scale_lr or {}
    if not stock.get('enable', False):
        return
    base: Any = stock.get('base_batch_size')
    check_positive_integer('auto_scale_lr.base_batch_size', base)
    optimizer = _optimizer(runner.optim_wrapper)
    if optimizer is None:
        return
    rule = scale_rule_of('optim_wrapper.optimizer.type', optimizer).name
    hook = find_hook(runner, WarmupStepLRHook)
    if hook is not None:
        wanted = 'None with auto_scale_lr.enable=True (--auto-scale-lr), which sets it'
        check(hook.scale_rule is None, 'WarmupStepLRHook.scale_rule', hook.scale_rule, wanted)
        hook.scale_rule, hook.base_batch_size = rule, base
    factor = scale_factor(rule, global_batch_size, base)

    def scale_lr(optim_wrapper: BaseOptimWrapper, auto_scale_lr: dict | None = None) -> None:
        # WarmupStepLRHook scales the LR and logs it.
        if hook is not None:
            return
        for group in optim_wrapper.param_groups:
            group['lr'] *= factor
        runner.logger.info(
            f'auto_scale_lr: global batch {global_batch_size}; LR x {factor:.6g} by the {rule} '
            f'rule of {optimizer}, from {base}'
        )

    # Runner.train calls it between building the optimizer and the schedulers.
    setattr(runner, 'scale_lr', scale_lr)  # noqa: B010


def _optimizer(wrapper: Any) -> str | None:
    """Return the class name of the optimizer; None for several, which the loop refuses."""
    if isinstance(wrapper, dict):
        return type_name(wrapper.get('optimizer')) or None
    optimizer = getattr(wrapper, 'optimizer', None)
    return type(optimizer).__name__ if isinstance(optimizer, Optimizer) else None
