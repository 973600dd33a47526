"""Stop a diverging training, or roll it back, before its weights are lost."""

import math
from numbers import Integral
from typing import cast

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..checkpoints.rollback import Switches, roll_back
from ..checks import check, invalid, is_number
from ..compat import train_loop
from ..errors import DivergenceError
from ..global_batch.loop import GlobalBatchTrainLoop, RolledBack
from ..utils.record import note, write_end, write_record
from ..utils.runner import find_hook, is_training, loss_scale
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .warmup_step_lr_hook import WarmupStepLRHook

# Updates that the running mean of the loss is taken over, about; before as many it does not judge.
WINDOW = 50
# Names under which the message hub, and so a checkpoint, keeps what this hook has to remember.
ROLLBACKS, MEAN, COUNT = 'divergence_rollbacks', 'divergence_mean_loss', 'divergence_updates'


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stop a training at its first bad update, with the weights of before it.

    An update is bad if a loss (the mean over the global batch) or the norm of the gradient is not
    finite. That is looked at between the backward passes and the optimizer's step, with one copy
    from the device to the host. Under loss scaling (``AmpOptimWrapper``) a gradient that is not
    finite is left to the scaler, which skips the step and halves the scale; at a scale of 1 or less
    it is not the scale's doing, and counts.

    The record of the start, ``<work_dir>/<timestamp>/largebatch.json``, keeps the update, the epoch
    and the line that the training ended with.

    Args:
        spike (float, optional): An update is bad too if its loss is more than this many times the
            running mean of the losses before it, over about 50 updates. None for any finite loss.
            Defaults to None.
        rollbacks (int): How many times, in the whole training, to go back to the newest checkpoint
            and on from there with a lower LR, before the training is stopped. With 0 it is stopped
            at the first bad update. Above 0, the state before the first update is saved too.
            Defaults to 0.
        lr_factor (float): What a rollback multiplies the LR by, for the rest of the training and
            over restarts. Defaults to 0.5.

    Raises:
        SettingError: If a setting is out of its range; or, when a training begins, if its loop is
            not a :class:`GlobalBatchTrainLoop`, or, with ``rollbacks``, the LR is not scheduled by
            :class:`WarmupStepLRHook` or ``default_hooks.checkpoint`` is not an
            :class:`AtomicCheckpointHook`.
        DivergenceError: When the training diverged.

    Examples:
        >>> from mmdet.registry import HOOKS
        >>> default_hooks = dict(divergence=dict(type='DivergenceHook', spike=5, rollbacks=3))
        >>> HOOKS.build(default_hooks['divergence']).lr_factor
        0.5
    """

    def __init__(
        self, spike: float | None = None, rollbacks: int = 0, lr_factor: float = 0.5
    ) -> None:
        name = type(self).__name__
        ok = spike is None or (is_number(spike) and spike > 1)
        check(ok, f'{name}.spike', spike, 'above 1, or None')
        ok = is_number(rollbacks, Integral) and rollbacks >= 0
        check(ok, f'{name}.rollbacks', rollbacks, 'a whole number >= 0')
        ok = is_number(lr_factor) and 0 < lr_factor <= 1
        check(ok, f'{name}.lr_factor', lr_factor, 'in (0, 1]')
        self.spike = spike
        self.rollbacks = rollbacks
        self.lr_factor = lr_factor

    def before_run(self, runner: Runner) -> None:
        """Refuse a training that this hook cannot watch.

        Args:
            runner (Runner): The runner.

        Raises:
            SettingError: See the class.
        """
        if not is_training(runner):
            return
        loop = train_loop(runner)
        if not isinstance(loop, GlobalBatchTrainLoop):
            wanted = "'GlobalBatchTrainLoop': DivergenceHook looks at an update before its step"
            raise invalid('train_cfg.type', type(loop).__name__, wanted)
        for key, kind in dict(lr=WarmupStepLRHook, checkpoint=AtomicCheckpointHook).items():
            ok = not self.rollbacks or find_hook(runner, kind) is not None
            wanted = f"0 without default_hooks.{key}.type='{kind.__name__}'"
            check(ok, f'{type(self).__name__}.rollbacks', self.rollbacks, wanted)

    def before_train(self, runner: Runner) -> None:
        """Take up the LR factor of earlier rollbacks.

        Args:
            runner (Runner): The runner, which has resumed by now.
        """
        self._checkpoints = find_hook(runner, AtomicCheckpointHook)
        if self.rollbacks:
            self._switches = Switches(runner)
            self._schedule = cast(WarmupStepLRHook, find_hook(runner, WarmupStepLRHook))
            self._base_lrs = list(self._schedule.scheduler.base_values)
            done = runner.message_hub.get_info(ROLLBACKS, 0)
            note(runner, rollbacks=done)
            if done:
                self._scale_lr(runner, done)

    def before_train_epoch(self, runner: Runner) -> None:
        """Save the state before the first update, for a rollback to it.

        Args:
            runner (Runner): The runner.
        """
        if self.rollbacks and self._checkpoints is not None and runner.iter == 0:
            self._checkpoints.save_now(runner, 0)

    def before_update(self, runner: Runner, outputs: dict[str, Tensor]) -> None:
        """Judge an update. The train loop calls this between the gradients and the step.

        Args:
            runner (Runner): The runner.
            outputs (dict[str, Tensor]): Losses and other values of the update, 0-d, the same on
                every rank.

        Raises:
            DivergenceError: If the update is bad and the training is to end.
            RolledBack: If it is bad and the run was put back.
        """
        losses, norm = self._read(runner, outputs)
        reasons = [f'{name} is {value}' for name, value in losses.items() if _bad(value)]
        reasons = reasons or cast(GlobalBatchTrainLoop, train_loop(runner)).bad_gradients
        if not reasons:
            reasons = self._spikes(runner, losses)
        if not reasons and _bad(norm) and loss_scale(runner.optim_wrapper) <= 1:
            reasons = ['the loss is finite, its gradient is not']
        if reasons:
            self._diverged(runner, reasons, norm)

    def _read(self, runner: Runner, outputs: dict) -> tuple[dict[str, float], float]:
        """Losses and the norm of the gradient, brought to the host together."""
        names = [name for name in outputs if 'loss' in name]
        params = [p for group in runner.optim_wrapper.param_groups for p in group['params']]
        gradients = [p.grad for p in params if p.grad is not None and p.grad.numel() > 0]
        norms: list[Tensor] = list(torch._foreach_norm(gradients)) if gradients else []
        device = norms[0].device if norms else torch.device('cpu')
        total = torch.stack([x.to(device).float() for x in norms]).norm() if norms else None
        values = [torch.as_tensor(outputs[name]).detach().to(device) for name in names]
        if total is not None:
            values.append(total)
        read = torch.stack([x.double() for x in values]).tolist()
        norm = read.pop() if total is not None else 0.0
        return dict(zip(names, read, strict=True)), norm / loss_scale(runner.optim_wrapper)

    def _spikes(self, runner: Runner, losses: dict[str, float]) -> list[str]:
        """Judge the loss by its running mean; one that passes is taken into it."""
        if self.spike is None or 'loss' not in losses:
            return []
        hub, loss = runner.message_hub, losses['loss']
        mean, count = hub.get_info(MEAN, 0.0), hub.get_info(COUNT, 0)
        if count >= WINDOW and loss > self.spike * mean:
            return [f'loss is {loss:.4g}, {loss / mean:.1f} times its running mean {mean:.4g}']
        count += 1
        hub.update_info(MEAN, mean + (loss - mean) / min(count, WINDOW))
        hub.update_info(COUNT, count)
        return []

    def _diverged(self, runner: Runner, reasons: list[str], norm: float) -> None:
        lr = max(group['lr'] for group in runner.optim_wrapper.param_groups)
        newest = self._checkpoints and self._checkpoints.newest_of_main_process()
        what = (
            f'Diverged at update {runner.iter + 1} of {runner.max_iters} (epoch '
            f'{runner.epoch + 1}): {", ".join(reasons)}; LR {lr:.4g}, gradient norm {norm:.4g}.'
        )
        runner.optim_wrapper.zero_grad()
        done = runner.message_hub.get_info(ROLLBACKS, 0)
        if done < self.rollbacks and newest:
            self._roll_back(runner, what, newest, done + 1)
        message = (
            f'{what} The weights were not touched by it; the last good checkpoint: '
            f'{newest or "none yet"}. Try a longer warmup (default_hooks.lr.warmup_iters), a lower '
            "LR (optim_wrapper.optimizer.lr), or optim_wrapper.optimizer.type='LAMB'."
        )
        write_end(runner, 'diverged', runner.iter + 1, runner.epoch + 1, message)
        raise DivergenceError(message)

    def _roll_back(self, runner: Runner, what: str, path: str, number: int) -> None:
        runner.logger.warning(
            f'{what} Rollback {number} of {self.rollbacks}: back to {path}, on with the LR times '
            f'{self.lr_factor**number:g}.'
        )
        roll_back(runner, path, self._switches)
        runner.message_hub.update_info(ROLLBACKS, number)
        write_record(runner, rollbacks=number)
        self._scale_lr(runner, number)
        if self._checkpoints is not None:
            self._checkpoints.forget_newest_update()
        raise RolledBack

    def _scale_lr(self, runner: Runner, rollbacks: int) -> None:
        factor = self.lr_factor**rollbacks
        scheduler = self._schedule.scheduler
        scheduler.base_values = [base * factor for base in self._base_lrs]
        scheduler.load_state_dict({'update': runner.iter})
        runner.logger.info(f'LR times {factor:g} after {rollbacks} rollbacks')


def _bad(value: float) -> bool:
    return not math.isfinite(value)
