"""The train loop in which one iteration is one update of the global batch."""

from math import ceil
from typing import Any, Dict, Iterator, Optional, Union

from mmdet.registry import LOOPS
from mmengine.dist import get_dist_info
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from ..errors import RolledBack, SettingError
from ..optimizers import double_clip_message
from ..type_names import type_name
from .accumulation import Accumulation, global_mean
from .contract import outside_contract
from .eta import CutEta
from .sampler import EMPTY, GlobalBatchSampler
from .seeding import MODEL, SeededFetch, seed_generators
from .unfrozen import Unfrozen


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

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): The training data; its batch size is the micro-batch. In
            place of its batch sampler, which may be none or mmdet's ``AspectRatioBatchSampler``
            over ``DefaultSampler``, a :class:`GlobalBatchSampler` is set that groups by it. A
            loader that is built already must have one.
        max_epochs (int): Epochs to train.
        global_batch_size (int): Images that one optimizer update learns from, over all ranks.
        max_updates (int, optional): Updates after which the training ends, with a checkpoint and an
            evaluation, though its schedule is that of ``max_epochs``. The epoch that it cuts short
            ends as a whole one would; resumed with more updates, the run goes on within it. None
            for all updates. Defaults to None.
        **kwargs: ``val_begin``, ``val_interval`` and ``dynamic_intervals`` of
            :class:`mmengine.runner.EpochBasedTrainLoop`.

    Raises:
        SettingError: If ``global_batch_size`` is not a positive multiple of the micro-batch,
            ``max_updates`` is not a positive integer, there are more ranks than micro-batches, the
            dataset is empty, or the sampler is one that cannot be dealt; and, when training begins,
            if ``accumulative_counts`` is set too or a checkpoint is of another number of updates an
            epoch.
    """

    def __init__(
        self,
        runner,
        dataloader: Union[DataLoader, Dict],
        max_epochs: int,
        global_batch_size: int,
        max_updates: Optional[int] = None,
        **kwargs,
    ) -> None:
        _check_positive('global_batch_size', global_batch_size)
        if max_updates is not None:
            _check_positive('max_updates', max_updates)
        if isinstance(dataloader, dict):
            dataloader = _with_global_batch(dataloader, global_batch_size)
        try:
            super().__init__(runner, dataloader, max_epochs, **kwargs)
        except ValueError as error:
            # MMEngine packs the annotations of all images into one array.
            if 'need at least one array to concatenate' not in str(error):
                raise
            raise SettingError(EMPTY) from error
        self.sampler = self.dataloader.batch_sampler
        if not isinstance(self.sampler, GlobalBatchSampler):
            raise SettingError(
                'train_dataloader is built already, with batch_sampler='
                f'{type(self.sampler).__name__}. Must be a GlobalBatchSampler, or a config.'
            )
        self.global_batch_size = global_batch_size
        self.max_updates = max_updates
        dataset = self.dataloader.dataset
        if not isinstance(getattr(dataset, '__getitems__', None), SeededFetch):
            dataset.__getitems__ = SeededFetch(dataset)
        self.unfrozen = Unfrozen(runner.model)

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
        apart = self.runner._randomness_cfg.get('diff_rank_seed', False)
        return self.runner.seed - (get_dist_info()[0] if apart else 0)

    def run(self) -> nn.Module:
        """Check what is known only now, log what an update consists of, and train.

        Returns:
            nn.Module: The trained model.

        Raises:
            SettingError: See the class.
        """
        self._check_optim_wrapper()
        self._check_resumed()
        self._log()
        self._reopen_epoch()
        if self.end < self.max_iters:
            self.runner.register_hook(CutEta(self.end))
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

    def run_epoch(self) -> None:
        """Run the updates of one epoch that are not done yet."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        begin = self._epoch * self.updates_per_epoch
        done, last = self._iter - begin, self._end_of(self._epoch + 1) - begin
        self.sampler.begin(self.seed, self._epoch, done)
        micro_batches = iter(self.dataloader) if done < last else iter(())
        for idx in range(done, last):
            self.run_iter(idx, micro_batches)
        self.runner.call_hook('after_train_epoch')
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
        share, ranks = self.sampler.share, self.sampler.ranks
        count = self.sampler.micro_batches
        accumulation = Accumulation(self.runner.optim_wrapper, ranks, count)
        outputs = []
        for position, number in enumerate(share):
            accumulation.synchronise = number == share[-1]
            micro_batch = data_batch if position == 0 else next(micro_batches)
            seed_generators((self.seed, self._iter, number), MODEL)
            log_vars = self.runner.model.train_step(micro_batch, optim_wrapper=accumulation)
            # Detached, or each would keep the graph of its micro-batch to the end of the update.
            outputs.append({name: value.detach() for name, value in log_vars.items()})
        self.unfrozen.synchronise()
        outputs = global_mean(outputs, ranks, count)
        self.runner.call_hook('before_update', outputs=outputs)
        accumulation.step()
        self.runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    def _end_of(self, epochs: int) -> int:
        """Updates that are done at the end of so many epochs."""
        return min(epochs * self.updates_per_epoch, self.end)

    def _reopen_epoch(self) -> None:
        """Go on within an epoch that was cut short, if there is more of it now."""
        if self._iter < self._end_of(self._epoch):
            self._epoch = self._iter // self.updates_per_epoch

    def _make_up_for_evaluation(self) -> None:
        """Evaluate: a checkpoint of the end of an epoch is from before that epoch's evaluation."""
        if 0 < self._iter == self._end_of(self._epoch):
            self._evaluate_if_due()

    def _evaluate_if_due(self) -> None:
        self._decide_current_val_interval()
        due = self._epoch >= self.val_begin and self._epoch % self.val_interval == 0
        at_end = self._epoch == self._max_epochs >= self.val_begin
        cut = self._iter == self.end < self.max_iters
        if self.runner.val_loop is not None and (due or at_end or cut):
            self.runner.call_hook('before_evaluation')
            self.runner.val_loop.run()

    def _check_optim_wrapper(self) -> None:
        wrapper = self.runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            raise SettingError(
                f'optim_wrapper has several optimizers ({", ".join(wrapper.keys())}). '
                'Must be one under GlobalBatchTrainLoop.'
            )
        if wrapper._accumulative_counts != 1:
            raise SettingError(
                f'optim_wrapper.accumulative_counts={wrapper._accumulative_counts}. Must be 1: '
                f'train_cfg.global_batch_size={self.global_batch_size} says how much is '
                'accumulated.'
            )
        message = double_clip_message(wrapper)
        if message:
            self.runner.logger.warning(message)

    def _check_resumed(self) -> None:
        hub, key = self.runner.message_hub, 'updates_per_epoch'
        before = hub.get_info(key, self.updates_per_epoch)
        if self._iter > 0 and before != self.updates_per_epoch:
            raise SettingError(
                f'train_cfg.global_batch_size={self.global_batch_size} makes '
                f'{self.updates_per_epoch} updates an epoch, and the checkpoint is from a run of '
                f'{before}. Must be the same to resume; to begin from its weights, give it as '
                'load_from without --resume.'
            )
        hub.update_info(key, self.updates_per_epoch)

    def _log(self) -> None:
        sampler, logger = self.sampler, self.runner.logger
        least, rest = divmod(sampler.micro_batches, sampler.ranks)
        each = f'{least} or {least + 1}' if rest else f'{least}'
        logger.info(
            f'{sampler.ranks} rank{"s" if sampler.ranks > 1 else ""}, {each} '
            f'micro-batch{"es" if each != "1" else ""} each of {sampler.batch_size} images, '
            f'global batch {self.global_batch_size}, {self.updates_per_epoch} updates an epoch'
        )
        if self.end < self.max_iters:
            logger.info(
                f'Cut short: {self.end} of {self.max_iters} updates (train_cfg.max_updates)'
            )
        self.runner.model.train()
        for what, names in outside_contract(self.runner.model).items():
            logger.warning(
                f'This training depends on the number of ranks: {what}, in {", ".join(names)}.'
            )


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SettingError(f'train_cfg.{name}={value!r}. Must be an integer.')
    if value < 1:
        raise SettingError(f'train_cfg.{name}={value}. Must be >= 1.')


def _with_global_batch(dataloader: Dict, global_batch_size: int) -> Dict:
    """The config of a data loader with a sampler of the global batch in it."""
    dataloader = dict(dataloader)
    grouping = dataloader.get('batch_sampler')
    kind = type_name(grouping)
    if kind == 'GlobalBatchSampler':
        return dataloader | dict(batch_sampler=dict(grouping, global_batch_size=global_batch_size))
    if kind not in ('', 'AspectRatioBatchSampler'):
        raise SettingError(
            f'train_dataloader.batch_sampler.type={kind}. Must be AspectRatioBatchSampler or none '
            'under GlobalBatchTrainLoop.'
        )
    dataloader['batch_sampler'] = dict(
        type='mmdet.GlobalBatchSampler', global_batch_size=global_batch_size, grouping=grouping
    )
    return dataloader
