"""Stop a diverging training, or roll it back, before the bad update is applied."""

from math import isfinite
from numbers import Integral

import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..checkpoints.rollback import RolledBack, Switches, roll_back
from ..checks import check, is_number
from ..errors import DivergenceError
from ..utils.dist import from_main_process
from ..utils.record import note, write_end, write_record
from ..utils.runner import check_loop, find_hook, is_training, loss_scale
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .warmup_step_lr_hook import WarmupStepLRHook

# Length in updates of the running mean of the loss. No spike is reported before that many updates.
WINDOW = 50
# State of this hook in the message hub, which checkpoints hold.
ROLLBACKS, MEAN, COUNT = 'divergence_rollbacks', 'divergence_mean_loss', 'divergence_updates'


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stop a training at its first bad update, before the optimizer's step.

    An update is bad if a loss (the mean over the global batch) or the gradient norm is not finite.
    The check costs one copy from the device to the host. Under loss scaling (``AmpOptimWrapper``)
    the scaler skips a step with non-finite gradients and halves the scale; such an update is bad
    only if the scale is 1 or less.

    ``largebatch.json`` records the update, the epoch and the line that the training ended with.

    Args:
        spike (float, optional): An update is also bad if its loss is above this many times the
            running mean of the losses before it, over about 50 updates. None to accept any finite
            loss. Defaults to None.
        rollbacks (int): Rollbacks to the newest checkpoint before the training is stopped, counted
            over all restarts. Above 0, the state before the first update is saved too.
            Defaults to 0.
        lr_factor (float): Factor of the LR at each rollback, kept over restarts. Defaults to 0.5.

    Raises:
        SettingError: If a setting is out of its range. When a training begins: if its loop is not a
            :class:`GlobalBatchTrainLoop`; with ``rollbacks``, if the LR is not scheduled by
            :class:`WarmupStepLRHook`, or ``default_hooks.checkpoint`` is not an
            :class:`AtomicCheckpointHook` that saves the optimizer.
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
        """Refuse a training that this hook cannot check."""
        if not is_training(runner):
            return
        check_loop(runner, 'DivergenceHook checks an update before its step')
        for key, kind in dict(lr=WarmupStepLRHook, checkpoint=AtomicCheckpointHook).items():
            ok = not self.rollbacks or find_hook(runner, kind) is not None
            wanted = f"0 without default_hooks.{key}.type='{kind.__name__}'"
            check(ok, f'{type(self).__name__}.rollbacks', self.rollbacks, wanted)
        checkpoints = find_hook(runner, AtomicCheckpointHook)
        ok = not self.rollbacks or checkpoints is None or checkpoints.save_optimizer
        wanted = (
            '0 with default_hooks.checkpoint.save_optimizer=False: a rollback would keep the '
            'moments of the diverged updates'
        )
        check(ok, f'{type(self).__name__}.rollbacks', self.rollbacks, wanted)

    def before_train(self, runner: Runner) -> None:
        """Apply the LR factor of earlier rollbacks."""
        self._checkpoints = find_hook(runner, AtomicCheckpointHook)
        if self.rollbacks:
            self._switches = Switches(runner)
            # before_run checked that WarmupStepLRHook installed it.
            [self._scheduler] = runner.param_schedulers
            self._base_lrs = list(self._scheduler.base_values)
            done = runner.message_hub.get_info(ROLLBACKS, 0)
            note(runner, rollbacks=done)
            if done:
                self._scale_lr(runner, done)

    def before_train_epoch(self, runner: Runner) -> None:
        """Save the state before the first update, so that a rollback can return to it.

        So too after a resume from a checkpoint without an optimizer.
        """
        if self.rollbacks and self._checkpoints is not None:
            if runner.iter == 0 or not self._checkpoints.newest_is_complete:
                self._checkpoints.save_now(runner, runner.iter)

    def before_update(self, runner: Runner, outputs: dict[str, Tensor]) -> None:
        """Check an update. :class:`GlobalBatchTrainLoop` calls this before the optimizer's step.

        Args:
            runner (Runner): The runner.
            outputs (dict[str, Tensor]): Losses and other values of the update, 0-d, the same on
                every rank.

        Raises:
            DivergenceError: If the update is bad and no rollback is left.
            RolledBack: If the update is bad and the run was rolled back.
        """
        losses, norm = self._read(runner, outputs)
        scale = loss_scale(runner.optim_wrapper)
        norm /= scale
        reasons = [f'{name} is {value}' for name, value in losses.items() if not isfinite(value)]
        reasons = reasons or runner.train_loop.bad_gradients or self._spikes(runner, losses)
        if not reasons and not isfinite(norm) and scale <= 1:
            reasons = ['the loss is finite, its gradient is not']
        if reasons:
            self._diverged(runner, reasons, norm)

    def _read(self, runner: Runner, outputs: dict) -> tuple[dict[str, float], float]:
        """Copy the losses and the gradient norm to the host, together."""
        names = [name for name in outputs if 'loss' in name]
        params = [p for group in runner.optim_wrapper.param_groups for p in group['params']]
        gradients = [p.grad for p in params if p.grad is not None and p.grad.numel() > 0]
        norms = torch._foreach_norm(gradients) if gradients else (torch.zeros(()),)
        device = norms[0].device
        total = torch.stack([x.to(device).float() for x in norms]).norm()
        values = [torch.as_tensor(outputs[name]).detach().to(device) for name in names]
        *losses, norm = torch.stack([x.double() for x in (*values, total)]).tolist()
        return dict(zip(names, losses, strict=True)), norm

    def _spikes(self, runner: Runner, losses: dict[str, float]) -> list[str]:
        """Compare the loss with its running mean, and add it to the mean if it is no spike."""
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
        newest = from_main_process(self._checkpoints.newest) if self._checkpoints else None
        what = (
            f'Diverged at update {runner.iter + 1} of {runner.max_iters} (epoch '
            f'{runner.epoch + 1}): {", ".join(reasons)}; LR {lr:.4g}, gradient norm {norm:.4g}.'
        )
        runner.optim_wrapper.zero_grad()
        number = runner.message_hub.get_info(ROLLBACKS, 0) + 1
        if number <= self.rollbacks and newest:
            runner.logger.warning(
                f'{what} Rollback {number} of {self.rollbacks}: back to {newest}, with the LR '
                f'times {self.lr_factor**number:g}.'
            )
            roll_back(runner, newest, self._switches)
            runner.message_hub.update_info(ROLLBACKS, number)
            write_record(runner, rollbacks=number)
            self._scale_lr(runner, number)
            raise RolledBack
        message = (
            f'{what} The update was not applied; the last good checkpoint: '
            f'{newest or "none yet"}. Try a longer warmup (default_hooks.lr.warmup_iters), a lower '
            "LR (optim_wrapper.optimizer.lr), or optim_wrapper.optimizer.type='LAMB'."
        )
        write_end(runner, 'diverged', runner.iter + 1, runner.epoch + 1, message)
        raise DivergenceError(message)

    def _scale_lr(self, runner: Runner, rollbacks: int) -> None:
        factor = self.lr_factor**rollbacks
        self._scheduler.base_values = [base * factor for base in self._base_lrs]
        self._scheduler.load_state_dict({'update': runner.iter})
        runner.logger.info(f'LR times {factor:g} after {rollbacks} rollbacks')
