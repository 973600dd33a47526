"""Measure the gradient noise scale while a run trains."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from ..checks import check, is_number
from ..global_batch.noise_scale import (
    NoiseScale,
    noise_scale,
    squares_by_component,
    unbiased_terms,
)
from ..optimizers import component_of
from ..utils.runner import check_loop, is_training, loss_scale, plain_model


@HOOKS.register_module()
class NoiseScaleHook(Hook):
    """Measure the gradient noise scale from the micro-batches of an update, and log it.

    The noise scale tr Sigma / |G|^2, in images, is the batch at which the noise of a gradient is as
    large as the gradient (McCandlish et al., arXiv 1812.06162). An image at batch B is worth
    ``1 / (1 + B / noise scale)`` of one at a small batch. The log gets a line with a 95 % interval
    over the newest ``window`` measurements, with ``> X`` for a gradient that cannot be told from
    0. Every vis backend gets ``noise_scale``, ``noise_scale_low`` and ``noise_scale_high``, if
    known, ``gradient_variance`` and ``gradient_square``, the tr Sigma and |G|^2 of this update
    alone, and the same of each component, such as ``backbone/noise_scale``.

    A due update costs the norms of the gradients, one all-reduce of ``micro-batches x components``
    numbers and one copy from the device to the host. Without ``train_cfg.exact_sum`` it also adds
    the gradients of its micro-batches one by one, in a buffer as large as the parameters. The hook
    measures gradients without loss scaling and before clipping. It passes an update over, and
    measures the next one, if a gradient is not finite, if an earlier update left gradients without
    a step, or if a micro-batch is not full, as at the end of an epoch.

    Caveats:

    - Images of like aspect ratio share a micro-batch, so their gradients resemble each other. This
      inflates tr Sigma.
    - Losses are normalised within a micro-batch, so the gradient of an image depends on its
      micro-batch. Never compare noise scales of different ``train_dataloader.batch_size``.
    - An epoch draws images without replacement. The variance of an update is less by a factor of
      1 - B / images of the data set than for independent images.
    - AI2 (arXiv 2505.23971) finds that the noise scale underestimates the critical batch. Train
      short branches at several batches before you trust a limit.

    Args:
        interval (int): Interval of measurements in updates, at least 1. Defaults to 50.
        window (int): Number of newest measurements that are averaged, at least 2. A long window has
            a narrow interval, and lags behind a noise scale that grows. Defaults to 20.

    Raises:
        SettingError: If a setting is out of its range. When a training begins: if its loop is not a
            :class:`GlobalBatchTrainLoop`, an update has one micro-batch, or the data set is smaller
            than an update.

    Examples:
        >>> from mmdet.registry import HOOKS
        >>> default_hooks = dict(noise_scale=dict(type='NoiseScaleHook', interval=50))
        >>> HOOKS.build(default_hooks['noise_scale']).window
        20
    """

    # Hooks of lower priority may change the gradients.
    priority = 'HIGH'

    def __init__(self, interval: int = 50, window: int = 20) -> None:
        name = type(self).__name__
        ok = is_number(interval, Integral) and interval >= 1
        check(ok, f'{name}.interval', interval, 'a whole number of updates >= 1')
        ok = is_number(window, Integral) and window >= 2
        check(ok, f'{name}.window', window, 'a whole number of measurements >= 2')
        self.interval = interval
        self.window = window
        # What measurements of one run have in common.
        self._setting: dict[str, Any] = {}
        # The update, and tr Sigma and |G|^2 of each component.
        self._measured: list[tuple[int, list[list[float]]]] = []
        self._due = self._listens = self._is_new = False
        self._squares: dict[int, Tensor] = {}

    def before_run(self, runner: Runner) -> None:
        """Refuse a training whose updates have nothing to compare."""
        if not is_training(runner):
            return
        sampler = check_loop(runner, 'NoiseScaleHook measures its micro-batches').sampler
        images, batch = sampler.batch_size, sampler.global_batch_size
        if batch == 1:
            check(False, 'train_cfg.global_batch_size', 1, 'above 1 for NoiseScaleHook')
        half = max(size for size in range(1, batch) if batch % size == 0)
        wanted = (
            f'at most {half} with train_cfg.global_batch_size={batch}: NoiseScaleHook compares the '
            'micro-batches of an update, at least 2'
        )
        check(sampler.micro_batches > 1, 'train_dataloader.batch_size', images, wanted)
        wanted = (
            f'at most {len(sampler.sampler.dataset)}, the images of the data set: NoiseScaleHook '
            'measures updates whose micro-batches are full'
        )
        check(sampler.is_full(0), 'train_cfg.global_batch_size', batch, wanted)

    def before_train(self, runner: Runner) -> None:
        """Find the components, and drop measurements that do not compare with those to come."""
        sampler = runner.train_loop.sampler
        names = [name for name, _ in plain_model(runner.model).named_parameters()]
        setting = dict(
            images=sampler.batch_size,
            micro_batches=sampler.micro_batches,
            components=list(dict.fromkeys(map(component_of, names))),
        )
        if self._measured and self._setting != setting:
            runner.logger.info('NoiseScaleHook begins anew: the micro-batches have changed.')
            self._measured = []
        self._setting = setting

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Listen to the update if a measurement is due."""
        self._due = self._due or self.every_n_train_iters(runner, self.interval)
        self._listens = self._due and runner.train_loop.sampler.is_full(batch_idx)
        self._squares = {}
        if self._listens:
            # Those of an update without a step.
            self._left_over = self._of_components(runner, _gradients(runner))

    def wants_micro_batches(self, runner: Runner) -> bool:
        """Return True if this update is measured."""
        return self._listens

    def after_micro_batch(self, runner: Runner, index: int, gradients: dict[str, Tensor]) -> None:
        """Note |g_j|^2 of each component.

        Args:
            runner (Runner): The runner.
            index (int): Index of the micro-batch in the update.
            gradients (dict[str, Tensor]): Its gradient by parameter name, without loss scaling.
        """
        if self._listens:
            self._squares[index] = self._of_components(runner, gradients)

    def before_update(self, runner: Runner, outputs: dict[str, Tensor]) -> None:
        """Measure the update, once its mean gradient is known."""
        if not self._listens:
            return
        self._listens, count = False, self._setting['micro_batches']
        rows = torch.stack([torch.zeros_like(self._left_over)] * (count + 2))
        for index, squares in self._squares.items():
            rows[index] = squares
        if runner.rank == 0:
            scale = loss_scale(runner.optim_wrapper)
            rows[count] = self._of_components(runner, _gradients(runner)) / scale**2
        rows[count + 1] = self._left_over
        # The other ranks have zeros where this one has values: no sum is rounded.
        all_reduce(rows)
        table = rows.cpu().numpy()
        if np.isfinite(table).all() and not table[count + 1].any():
            terms = unbiased_terms(table[:count], table[count], self._setting['images'])
            self._measured.append((runner.iter + 1, [part.tolist() for part in terms]))
            del self._measured[: -self.window]
            self._due, self._is_new = False, True

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Write the noise scale after a measurement."""
        if not self._is_new:
            return
        self._is_new = False
        # Shape (2, measurements, components).
        table = np.array([terms for _, terms in self._measured]).swapaxes(0, 1)
        whole, scalars = self._summary(table.sum(-1))
        for index, component in enumerate(self._setting['components']):
            # A frozen component has no gradient.
            if table[:, -1, index].any():
                _, own = self._summary(table[..., index])
                scalars |= {f'{component}/{name}': value for name, value in own.items()}
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)
        runner.logger.info(whole.line(runner.train_loop.global_batch_size))

    def _summary(self, terms: np.ndarray) -> tuple[NoiseScale, dict[str, float]]:
        """Return the noise scale and the scalars of tr Sigma and |G|^2, shape (2, measurements)."""
        traces, squares = terms
        found = noise_scale(traces, squares, self._setting['images'])
        newest = dict(gradient_variance=float(traces[-1]), gradient_square=float(squares[-1]))
        return found, found.scalars() | newest

    def after_rollback(self, runner: Runner) -> None:
        """Drop measurements of updates that were rolled back."""
        self._measured = [one for one in self._measured if one[0] <= runner.iter]
        self._listens = self._is_new = False

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements, with what they have in common, and whether one is due."""
        return dict(setting=self._setting, measured=self._measured, due=self._due)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of :meth:`state_dict`."""
        self._setting, self._due = dict(state['setting']), state['due']
        self._measured = [(update, terms) for update, terms in state['measured']]

    def _of_components(self, runner: Runner, gradients: dict[str, Tensor]) -> Tensor:
        device = next(plain_model(runner.model).parameters()).device
        return squares_by_component(gradients, self._setting['components'], device)


def _gradients(runner: Runner) -> dict[str, Tensor]:
    """Return the gradients that the parameters hold, by name."""
    named = plain_model(runner.model).named_parameters()
    return {name: p.grad for name, p in named if p.grad is not None}
