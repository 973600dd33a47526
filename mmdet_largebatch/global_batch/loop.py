"""The train loop in which one iteration is one update of the global batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from itertools import chain, islice
from math import ceil
from typing import Any

from mmdet.registry import LOOPS
from mmengine.dist import get_dist_info
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..checkpoints.rollback import RolledBack
from ..checks import check, check_flag, check_positive_integer, invalid
from ..compat import accumulative_counts, randomness
from ..errors import DivergenceError, SettingError
from ..hooks.cut_eta_hook import CutEtaHook
from ..hooks.patient_param_scheduler_hook import be_patient
from ..optimizers import double_clip_message
from ..utils.record import keep_record, note, write_end
from ..utils.runner import loss_scale
from .exact_sum import exact_sum_line
from .gradient_accumulation import GradientAccumulator
from .loader import with_global_batch
from .logged_means import LoggedMeans
from .micro_batch_gradients import NOT_FINITE, MicroBatchGradients, check_wrapper
from .model_state import ModelState
from .rank_dependence import rank_dependent_modules, uneven_message
from .rank_means import RankMeans
from .remembering import remembering_message
from .running_statistics import RunningStatistics
from .sampler import EMPTY, GlobalBatchSampler
from .seeding import MODEL, SeededFetch, seed_generators
from .unfrozen import Unfrozen
from .unused import check_all_used

# Arguments that train_cfg may have besides this loop's own.
STOCK_SETTINGS = ('val_begin', 'val_interval', 'dynamic_intervals')


@LOOPS.register_module()
class GlobalBatchTrainLoop(EpochBasedTrainLoop):
    """Epoch-based training in which one iteration is one update of the global batch.

    An update learns from ``global_batch_size`` images, in micro-batches of
    ``train_dataloader.batch_size``. The ranks share the micro-batches out, each computes its own
    one after the other, and gradients are synchronised once. Which images make up a micro-batch,
    their augmentation and the model's random draws on them depend on the seed, the update and the
    micro-batch alone, so the trajectory is the same on any number of ranks and data workers, and
    over restarts, up to the order of floating-point sums. Every hook sees one iteration an update;
    what is logged is the mean over the global batch.

    A run resumed from a checkpoint that was saved within an epoch goes on with the next update of
    that epoch; from one of the end of an epoch, with the evaluation of that epoch if it was due.

    Besides MMEngine's points a hook has ``before_update(runner, outputs)``, where the gradients of
    the update are there and the optimizer has not stepped yet; ``before_evaluation(runner)``, ahead
    of every hook's ``before_val``; and ``after_rollback(runner)``, once a run was put back to a
    checkpoint.

    A hook that has ``after_micro_batch(runner, index, gradients)`` is given the gradient of each
    micro-batch that this rank computes, alone: of its own mean loss, unscaled, by the names of the
    parameters that have one. It may read them during the call. With ``exact_sum`` that is in every
    update, otherwise in those for which ``wants_micro_batches(runner)`` of a hook is true; it must
    answer the same on every rank.

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
        SettingError: If ``global_batch_size`` is not a positive multiple of the micro-batch,
            a setting of ``train_cfg`` or an option of the data loader cannot be used, there are
            more ranks than micro-batches, or the dataset is empty; and, when training begins, if
            ``accumulative_counts`` is set too, a model that communicates between the ranks is
            shared out unevenly, or a checkpoint is of another number of updates an epoch.

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
        check_positive_integer('train_cfg.global_batch_size', global_batch_size)
        check_flag('train_cfg.exact_sum', exact_sum)
        if max_updates is not None:
            check_positive_integer('train_cfg.max_updates', max_updates)
        _check_stock_settings(max_epochs, kwargs)
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
        self.unfrozen = Unfrozen(runner.model)
        self.exact_sum = exact_sum
        self.bad_gradients: list[str] = []
        self._alone: MicroBatchGradients | None = None
        self._means = LoggedMeans(self.sampler.ranks, self.sampler.micro_batches, self.sampler.rank)
        self._accumulation: GradientAccumulator | None = None
        counts = self.sampler.ranks, self.sampler.micro_batches
        self._rank_means = RankMeans(runner.model, *counts, exact_sum)
        self._statistics = RunningStatistics(runner.model, *counts)
        self._state: ModelState | None = None

    @property
    def updates_per_epoch(self) -> int:
        """int: Optimizer updates in one epoch."""
        return len(self.sampler)

    @property
    def end(self) -> int:
        """int: Updates after which the training ends."""
        return min(self.max_updates or self.max_iters, self.max_iters)

    @property
    def last_epoch(self) -> int:
        """int: The epoch, counted from 1, that it ends in."""
        return ceil(self.end / self.updates_per_epoch)

    @property
    def seed(self) -> int:
        """int: The seed that all ranks share; on resume it is the checkpoint's."""
        apart = randomness(self.runner).get('diff_rank_seed', False)
        return self.runner.seed - (get_dist_info()[0] if apart else 0)

    def run(self) -> nn.Module:
        """Check the model and the checkpoint, log the layout of an update, and train.

        Returns:
            nn.Module: The trained model.

        Raises:
            SettingError: See the class.
        """
        self.check()
        self._check_resumed()
        self._log()
        be_patient(self.runner)
        self._reopen_epoch()
        self._note()
        if self.end < self.max_iters:
            self.runner.register_hook(CutEtaHook(self.end))
        self.runner.call_hook('before_train')
        self._make_up_for_evaluation()
        while self._epoch < self.last_epoch and not self.stop_training:
            try:
                self.run_epoch()
            except RolledBack:
                self._check_resumed()
                self._reopen_epoch()
                self._make_up_for_evaluation()
                continue
            self._evaluate_if_due()
        self.runner.call_hook('after_train')
        return self.runner.model

    def check(self) -> None:
        """Refuse a training that cannot work with this model and optimizer.

        Raises:
            SettingError: See the class.
        """
        self._check_optim_wrapper()
        model, ranks = self.runner.model.train(), self.sampler.ranks
        if self.exact_sum:
            check_wrapper(model)
        message = uneven_message(model, ranks, self.sampler.micro_batches)
        if message:
            raise SettingError(message)

    def run_epoch(self) -> None:
        """Run the remaining updates of one epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        self._statistics.look()
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
            idx (int): Which update of the epoch, counted from 0.
            micro_batches (Iterator[Any]): This rank's share of it comes next. Hooks get the first
                of them as ``data_batch``.
        """
        data_batch = next(micro_batches)
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        share = self.sampler.share
        accumulation = self._accumulation_of(self.runner.optim_wrapper)
        alone, listen = self._micro_batch_gradients()
        accumulation.begin(alone)
        batches: Iterable[Any] = chain([data_batch], islice(micro_batches, len(share) - 1))
        if self._rank_means.probing:
            batches = list(batches)
            self._probe(batches, accumulation)
        self._statistics.begin()
        outputs: list[dict[str, Any] | None] = []
        for number, micro_batch in zip(share, batches, strict=True):
            seed_generators((self.seed, self._iter, number), MODEL)
            heard = partial(listen, number) if listen else None
            with (
                accumulation.micro_batch(number == share[-1], heard) as optim_wrapper,
                self._rank_means.micro_batch(number),
                self._statistics.micro_batch(),
            ):
                values = self.runner.model.train_step(micro_batch, optim_wrapper=optim_wrapper)
            outputs.append(self._means.detached(values))
        self._finish_gradients(alone)
        self._rank_means.finish()
        self._statistics.finish()
        means, asked = self._means(outputs, accumulation.asked)
        self.runner.call_hook('before_update', outputs={} if means is None else means)
        self._stop_if_diverged()
        if asked:
            accumulation.finish()
        self.runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=means
        )
        self._iter += 1

    def _probe(self, batches: Sequence[Any], accumulation: GradientAccumulator) -> None:
        """Record the calls of ``reduce_mean`` in a pass without gradients."""
        model = self.runner.model
        if self._state is None:
            self._state = ModelState(model)
        self._state.save()
        for number, micro_batch in zip(self.sampler.share, batches, strict=True):
            seed_generators((self.seed, self._iter, number), MODEL)
            with accumulation.probe() as optim_wrapper, self._rank_means.record(number):
                # A preprocessor may change samples in place.
                model.train_step(deepcopy(micro_batch), optim_wrapper=optim_wrapper)
        self._state.restore()
        self._rank_means.exchange()

    @contextmanager
    def _backward(self) -> Iterator[None]:
        with self._rank_means.backward(), self._statistics.backward():
            yield

    def _accumulation_of(self, optim_wrapper: OptimWrapper) -> GradientAccumulator:
        sampler, standing = self.sampler, self._accumulation
        if standing is None or standing.optim_wrapper is not optim_wrapper:
            self._accumulation = standing = GradientAccumulator(
                optim_wrapper,
                sampler.ranks,
                sampler.micro_batches,
                len(sampler.share),
                self._backward,
            )
        return standing

    def _micro_batch_gradients(self) -> tuple[MicroBatchGradients | None, Callable | None]:
        """Return what adds the gradients of this update one by one, and what is told of each."""
        listeners = [hook for hook in self.runner.hooks if hasattr(hook, 'after_micro_batch')]
        wanted = [getattr(hook, 'wants_micro_batches', None) for hook in listeners]
        if not self.exact_sum and not any(wants and wants(self.runner) for wants in wanted):
            return None, None
        if self._alone is None:
            ranks, micro_batches = self.sampler.ranks, self.sampler.micro_batches
            model = self.runner.model
            self._alone = MicroBatchGradients(model, ranks, micro_batches, self.exact_sum)
        self._alone.begin()
        return self._alone, self._tell if listeners else None

    def _tell(self, index: int, gradients: dict[str, Tensor]) -> None:
        self.runner.call_hook('after_micro_batch', index=index, gradients=gradients)

    def _finish_gradients(self, alone: MicroBatchGradients | None) -> None:
        """Give every rank the mean gradient of the update."""
        if alone is None:
            check_all_used(self.runner.model)
            self.unfrozen.synchronise()
            return
        left_to_scaler = loss_scale(self.runner.optim_wrapper) > 1
        self.bad_gradients = [
            f'the gradient of {name} {why}'
            for name, why in alone.finish().items()
            if not (left_to_scaler and why == NOT_FINITE)
        ]

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

    def _check_optim_wrapper(self) -> None:
        wrapper = self.runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            wanted = 'a single optimizer under GlobalBatchTrainLoop'
            raise invalid('optim_wrapper', list(wrapper.keys()), wanted)
        wanted = 'OptimWrapper or a class derived from it under GlobalBatchTrainLoop'
        kind = type(wrapper).__name__
        check(isinstance(wrapper, OptimWrapper), 'optim_wrapper.type', kind, wanted)
        counts = accumulative_counts(wrapper)
        wanted = f'1: train_cfg.global_batch_size={self.global_batch_size} says what is accumulated'
        check(counts == 1, 'optim_wrapper.accumulative_counts', counts, wanted)
        message = double_clip_message(wrapper)
        if message:
            self.runner.logger.warning(message)

    def _check_resumed(self) -> None:
        hub, key = self.runner.message_hub, 'updates_per_epoch'
        before = hub.get_info(key, self.updates_per_epoch)
        if self._iter > 0 and before != self.updates_per_epoch:
            wanted = (
                f'one that makes {before} updates an epoch, as in the run of the checkpoint, not '
                f'{self.updates_per_epoch}; to begin from its weights, give it as load_from '
                'without --resume'
            )
            raise invalid('train_cfg.global_batch_size', self.global_batch_size, wanted)
        hub.update_info(key, self.updates_per_epoch)

    def _note(self) -> None:
        keep_record(self.runner)
        note(
            self.runner,
            global_batch=self.global_batch_size,
            micro_batch=self.sampler.batch_size,
            micro_batches=self.sampler.micro_batches,
            updates_per_epoch=self.updates_per_epoch,
            epochs=self.max_epochs,
            updates=self.max_iters,
            max_updates=self.end if self.end < self.max_iters else None,
            exact_sum=self.exact_sum,
        )

    def _log(self) -> None:
        sampler, logger = self.sampler, self.runner.logger
        least, rest = divmod(sampler.micro_batches, sampler.ranks)
        each = f'{least} or {least + 1}' if rest else f'{least}'
        logger.info(
            f'{sampler.ranks} rank{"s" if sampler.ranks > 1 else ""}, {each} '
            f'micro-batch{"es" if each != "1" else ""} each of {sampler.batch_size} images, '
            f'global batch {self.global_batch_size}, {self.updates_per_epoch} updates an epoch'
        )
        logger.info(exact_sum_line(self.exact_sum))
        if self.end < self.max_iters:
            logger.info(
                f'Cut short: {self.end} of {self.max_iters} updates (train_cfg.max_updates)'
            )
        model = self.runner.model
        if is_model_wrapper(model) and type(model.module).train_step is not BaseModel.train_step:
            logger.warning(
                f'{type(model).__name__} does not call the train_step of '
                f'{type(model.module).__name__}, on one rank it is called.'
            )
        for what, names in rank_dependent_modules(model.train()).items():
            logger.warning(
                f'This training depends on the number of ranks: {what}, in {", ".join(names)}.'
            )
        message = remembering_message(self.dataloader.dataset)
        if message:
            logger.warning(message)


def _check_stock_settings(max_epochs: Any, settings: dict[str, Any]) -> None:
    """Refuse settings that MMEngine would accept and fail on later."""
    unknown = sorted(set(settings) - set(STOCK_SETTINGS))
    if unknown:
        own = ('max_epochs', 'global_batch_size', 'max_updates', 'exact_sum')
        known = ', '.join((*own, *STOCK_SETTINGS))
        wanted = f'left out: GlobalBatchTrainLoop knows {known}'
        raise invalid(f'train_cfg.{unknown[0]}', settings[unknown[0]], wanted)
    if isinstance(max_epochs, float) and max_epochs.is_integer():
        max_epochs = int(max_epochs)
    check_positive_integer('train_cfg.max_epochs', max_epochs)
    check_positive_integer('train_cfg.val_interval', settings.get('val_interval', 1))
    intervals = settings.get('dynamic_intervals')
    whole = intervals is None or all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(isinstance(n, int) for n in pair)
        and pair[1] >= 1
        for pair in intervals
    )
    wanted = 'a list of pairs of an epoch and an interval >= 1, such as [(10, 1)]'
    check(whole, 'train_cfg.dynamic_intervals', intervals, wanted)
