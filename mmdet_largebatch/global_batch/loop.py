"""The train loop in which one iteration is one update of the global batch."""

from collections.abc import Iterator
from itertools import chain, islice
from math import ceil
from typing import Any

from mmdet.registry import LOOPS
from mmengine.dist import get_dist_info
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints.rollback import RolledBack
from ..checks import invalid
from ..compat import randomness
from ..errors import DivergenceError, SettingError
from ..hooks.cut_eta_hook import CutEtaHook
from ..hooks.patient_param_scheduler_hook import be_patient
from ..utils.record import write_end
from .auto_scale_lr import follow_auto_scale_lr
from .layout import log_layout, look_at_pipeline, record_layout
from .loader import with_global_batch
from .sampler import EMPTY, GlobalBatchSampler
from .seeding import SeededFetch
from .settings import (
    check_model,
    check_optim_wrapper,
    check_runner,
    check_train_cfg,
    check_updates_per_epoch,
)
from .update import GlobalBatchUpdate


@LOOPS.register_module()
class GlobalBatchTrainLoop(EpochBasedTrainLoop):
    """Epoch-based training in which one iteration is one update of the global batch.

    An update learns from ``global_batch_size`` images, in micro-batches of
    ``train_dataloader.batch_size``. The ranks share the micro-batches; each rank computes its own
    in turn, and gradients are synchronised once. The images of a micro-batch, their augmentation
    and the model's random draws depend on the seed, the update and the micro-batch alone. The
    trajectory is therefore the same on any number of ranks and data workers, and over restarts, up
    to the order of floating-point sums. Hooks see one iteration an update; logged values are means
    over the global batch.

    With ``auto_scale_lr.enable=True`` (``--auto-scale-lr``) the LR is scaled to the global batch by
    the rule of the optimizer.

    A run resumed within an epoch continues with the next update. A run resumed at the end of an
    epoch begins with the evaluation of that epoch, if due.

    Adds hook points:

    - ``after_micro_batch(runner, index, gradients)``: after backward of one of this rank's
      micro-batches, with the unscaled gradient of its mean loss, by parameter name; valid during
      the call. Called in every update with ``exact_sum``, otherwise if a hook's
      ``wants_micro_batches(runner)`` returns True, which it must on all ranks or on none.
    - ``before_update(runner, outputs)``: after backward and before ``optimizer.step()``.
    - ``before_evaluation(runner)``: before the ``before_val`` of all hooks.
    - ``after_rollback(runner)``: after the run went back to a checkpoint.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): The training data; its batch size is the micro-batch. In
            place of its batch sampler, which may be none or mmdet's ``AspectRatioBatchSampler``
            over ``DefaultSampler``, a :class:`GlobalBatchSampler` is set that groups by it. A
            loader that is built already must have one.
        max_epochs (int): Epochs to train.
        global_batch_size (int): Images that one optimizer update learns from, over all ranks.
        max_updates (int, optional): Updates after which the training ends, with a checkpoint and an
            evaluation, though its schedule is that of ``max_epochs``. In an epoch that it cuts
            short no hook is told of the epoch's end. Resumed with more updates, the run goes on
            within the epoch. None for all updates. Defaults to None.
        exact_sum (bool): Whether to add gradients as integers, multiples of 2^-44, so that their
            sum does not depend on its order, and so on the number of ranks. Defaults to False.
        **kwargs: ``val_begin``, ``val_interval`` and ``dynamic_intervals`` of
            :class:`mmengine.runner.EpochBasedTrainLoop`.

    Raises:
        SettingError: If the runner is a ``FlexibleRunner``, a setting of ``train_cfg`` or of the
            data loader is invalid, there are more ranks than micro-batches, or the dataset is
            empty. When training begins: if the optimizer wrapper, the model or the checkpoint does
            not fit; see ``settings.py``.

    Examples:
        64 micro-batches of 2 images in each update, on any number of GPUs up to 64:

        >>> train_dataloader = dict(batch_size=2)
        >>> train_cfg = dict(type='GlobalBatchTrainLoop', max_epochs=12, global_batch_size=128)
    """

    _epoch: int

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_epochs: int,
        global_batch_size: int,
        max_updates: int | None = None,
        exact_sum: bool = False,
        **kwargs: Any,
    ) -> None:
        check_runner(runner)
        check_train_cfg(max_epochs, global_batch_size, max_updates, exact_sum, kwargs)
        follow_auto_scale_lr(runner, global_batch_size)
        if isinstance(dataloader, dict):
            dataloader = with_global_batch(dataloader, global_batch_size)
        try:
            super().__init__(runner, dataloader, max_epochs, **kwargs)
        except ValueError as error:
            # MMEngine packs the annotations of all images into one array.
            if 'need at least one array to concatenate' not in str(error):
                raise
            raise SettingError(EMPTY) from error
        self.sampler = self.dataloader.batch_sampler
        if not isinstance(self.sampler, GlobalBatchSampler):
            raise invalid(
                'train_dataloader.batch_sampler',
                type(self.sampler).__name__,
                'a GlobalBatchSampler in a data loader that is built already',
            )
        self.global_batch_size = global_batch_size
        self.max_updates = max_updates
        dataset = self.dataloader.dataset
        if not isinstance(getattr(dataset, '__getitems__', None), SeededFetch):
            dataset.__getitems__ = SeededFetch(dataset)
        self.exact_sum = exact_sum
        self.bad_gradients: list[str] = []
        self.warned: set[str] = set()
        self._update = GlobalBatchUpdate(runner, self.sampler, exact_sum)

    @property
    def updates_per_epoch(self) -> int:
        """int: Optimizer updates in one epoch."""
        return len(self.sampler)

    @property
    def end(self) -> int:
        """int: Updates after which the training ends."""
        return min(self.max_updates or self.max_iters, self.max_iters)

    @property
    def seed(self) -> int:
        """int: The seed that all ranks share; on resume it is the checkpoint's."""
        apart = randomness(self.runner).get('diff_rank_seed', False)
        return self.runner.seed - (get_dist_info()[0] if apart else 0)

    def run(self) -> nn.Module:
        """Check the model and the checkpoint, log the layout of an update, and train.

        Returns:
            nn.Module: The trained model.
        """
        self.check()
        check_updates_per_epoch(self)
        log_layout(self)
        record_layout(self)
        be_patient(self.runner)
        self._reopen_epoch()
        if self.end < self.max_iters:
            self.runner.register_hook(CutEtaHook(self.end))
        self.runner.call_hook('before_train')
        self._make_up_for_evaluation()
        last_epoch = ceil(self.end / self.updates_per_epoch)
        while self._epoch < last_epoch and not self.stop_training:
            try:
                self.run_epoch()
            except RolledBack:
                check_updates_per_epoch(self)
                self._reopen_epoch()
                self._make_up_for_evaluation()
                continue
            self._evaluate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def check(self) -> None:
        """Refuse a model and an optimizer wrapper that cannot be trained by this loop."""
        runner = self.runner
        check_optim_wrapper(runner.optim_wrapper, self.global_batch_size)
        # The train() of some detectors returns None.
        runner.model.train()
        check_model(runner.model, self.sampler, self.exact_sum, runner.hooks)

    def run_epoch(self) -> None:
        """Run the remaining updates of one epoch."""
        self.runner.call_hook('before_train_epoch')
        look_at_pipeline(self)
        self.runner.model.train()
        self._update.begin_epoch()
        begin = self._epoch * self.updates_per_epoch
        done, last = self._iter - begin, self._end_of(self._epoch + 1) - begin
        # DistSamplerSeedHook has told MMEngine's sampler the epoch by now, where it is in use.
        self.sampler.begin(self.seed, self._epoch, done, self.sampler.sampler.epoch)
        micro_batches = iter(self.dataloader) if done < last else iter(())
        for idx in range(done, last):
            self.run_iter(idx, micro_batches)
        if self._iter == (self._epoch + 1) * self.updates_per_epoch:
            self.runner.call_hook('after_train_epoch')
        # An epoch that max_updates cut short counts for its evaluation; see _reopen_epoch.
        self._epoch += 1

    def run_iter(self, idx: int, micro_batches: Iterator[Any]) -> None:
        """Make one update.

        Args:
            idx (int): Index of the update in the epoch.
            micro_batches (Iterator[Any]): This rank's micro-batches, from this update on. Hooks get
                the first one as ``data_batch``.
        """
        data_batch = next(micro_batches)
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        batches = chain([data_batch], islice(micro_batches, len(self.sampler.share) - 1))
        outputs = self._update.compute(batches, (self.seed, self._iter))
        self.bad_gradients = self._update.synchronise()
        means = self._update.means(outputs)
        self.runner.call_hook('before_update', outputs={} if means is None else means)
        self._stop_if_diverged()
        self._update.step()
        self.runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=means
        )
        self._iter += 1

    def _stop_if_diverged(self) -> None:
        """Stop where a gradient cannot be added and no DivergenceHook has judged it."""
        if self.bad_gradients:
            message = (
                f'Diverged at update {self._iter + 1} of {self.max_iters}: '
                f'{", ".join(self.bad_gradients)}. The weights were not touched by it.'
            )
            write_end(self.runner, 'diverged', self._iter + 1, self._epoch + 1, message)
            raise DivergenceError(message)

    def _end_of(self, epochs: int) -> int:
        """Return the number of updates after a number of epochs."""
        return min(epochs * self.updates_per_epoch, self.end)

    def _reopen_epoch(self) -> None:
        """Continue an epoch that was cut short, if `max_updates` allows more of it now."""
        if self._iter < self._end_of(self._epoch):
            self._epoch = self._iter // self.updates_per_epoch

    def _make_up_for_evaluation(self) -> None:
        """Evaluate after a restart: an epoch's checkpoint is saved before its evaluation."""
        if 0 < self._iter == self._end_of(self._epoch):
            self._evaluate_if_due()

    def _evaluate_if_due(self) -> None:
        self._decide_current_val_interval()
        due = self._epoch >= self.val_begin and self._epoch % self.val_interval == 0
        at_end = self._epoch == self._max_epochs >= self.val_begin
        cut = self._iter == self.end < self.max_iters
        if self.runner.val_loop is not None and (due or at_end or cut):
            # MMEngine logs the newest value of each name, even if this evaluation has none.
            hub = self.runner.message_hub
            for results in (hub.log_scalars, hub.runtime_info):
                for key in [key for key in results if key.startswith('val/')]:
                    del results[key]
            self.runner.call_hook('before_evaluation')
            self.runner.val_loop.run()
