"""The micro-batches of an epoch, formed once for the whole world and dealt to the ranks."""

from copy import copy
from math import ceil
from typing import Iterator, List, Optional

from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, Sampler

from ..errors import SettingError
from .seeding import MicroBatch

EMPTY = (
    'train_dataloader.dataset has 0 images. Must have at least 1: look at its ann_file, its '
    'metainfo.classes and its filter_cfg.'
)


@DATA_SAMPLERS.register_module()
class GlobalBatchSampler(Sampler):
    """The same micro-batches on any number of ranks.

    A global batch is made of ``global_batch_size / batch_size`` micro-batches. Micro-batch ``j`` of
    an update is what rank ``j`` would compute if there were one rank for each of them: it is drawn
    by MMEngine's ``DefaultSampler`` and grouped by the given batch sampler as that rank's, with
    their way of filling up the end of an epoch. Of ``R`` ranks, rank ``r`` computes the
    micro-batches ``r``, ``r + R``, ``r + 2R`` and so on of each update, one after the other.

    It iterates over this rank's micro-batches of one epoch, from the update that :meth:`begin`
    says. Its length is in updates, as MMEngine's hooks and loggers take the length of a loader for
    the iterations of an epoch.

    Args:
        sampler (DefaultSampler): Has the dataset, the seed, and whether to shuffle.
        batch_size (int): Images of a micro-batch.
        global_batch_size (int): Images of an update, over all ranks.
        grouping (dict, optional): Config of the batch sampler that groups the images of one
            micro-batch, such as ``dict(type='AspectRatioBatchSampler')``. None takes them as they
            come. Defaults to None.

    Raises:
        SettingError: If the dataset is empty, the micro-batch does not divide the global batch,
            there are more ranks than micro-batches, or the sampler is another.
    """

    def __init__(
        self,
        sampler: DefaultSampler,
        batch_size: int,
        global_batch_size: int,
        grouping: Optional[dict] = None,
    ) -> None:
        if type(sampler) is not DefaultSampler:
            raise SettingError(
                f'train_dataloader.sampler.type={type(sampler).__name__}. Must be DefaultSampler: '
                'a global batch is dealt from its order of the images.'
            )
        if len(sampler.dataset) == 0:
            raise SettingError(EMPTY)
        if global_batch_size % batch_size:
            below = global_batch_size - global_batch_size % batch_size
            raise SettingError(
                f'train_cfg.global_batch_size={global_batch_size}. Must be a multiple of the '
                f'micro-batch, train_dataloader.batch_size={batch_size}, such as '
                f'{below or batch_size} or {below + batch_size}.'
            )
        self.rank, self.ranks = get_dist_info()
        self.micro_batches = global_batch_size // batch_size
        if self.ranks > self.micro_batches:
            raise SettingError(
                f'{self.ranks} ranks are more than the {self.micro_batches} micro-batches of '
                f'train_cfg.global_batch_size={global_batch_size} and '
                f'train_dataloader.batch_size={batch_size}. Must be at most as many.'
            )
        self.sampler = sampler
        self.batch_size = batch_size
        self.global_batch_size = global_batch_size
        self.grouping = grouping
        self.seed = sampler.seed
        self.epoch = self.start = 0

    @property
    def share(self) -> List[int]:
        """List[int]: Numbers of the micro-batches of each update that this rank computes."""
        return list(range(self.rank, self.micro_batches, self.ranks))

    def begin(self, seed: int, epoch: int, update: int) -> None:
        """Say what the next iteration goes over.

        Args:
            seed (int): Seed of the run, the same on every rank.
            epoch (int): The epoch, counted from 0.
            update (int): The update of that epoch to begin with, counted from 0.
        """
        self.seed, self.epoch, self.start = seed, epoch, update

    def _order(self, number: int) -> Iterator[List[int]]:
        """The micro-batches of an epoch that have this number in their updates."""
        sampler = copy(self.sampler)
        sampler.rank, sampler.world_size = number, self.micro_batches
        sampler.num_samples = ceil(len(sampler.dataset) / self.micro_batches)
        sampler.total_size = sampler.num_samples * self.micro_batches
        sampler.seed = self.seed
        sampler.set_epoch(self.epoch)
        if self.grouping is None:
            return iter(BatchSampler(sampler, self.batch_size, drop_last=False))
        batches = dict(sampler=sampler, batch_size=self.batch_size)
        # In mmdet's scope also where a program's default scope is another.
        grouping = dict(self.grouping, _scope_='mmdet')
        return iter(DATA_SAMPLERS.build(grouping, default_args=batches))

    def __iter__(self) -> Iterator[MicroBatch]:
        share = self.share
        orders = [self._order(number) for number in share]
        first = self.epoch * len(self)
        for update in range(len(self)):
            for number, order in zip(share, orders, strict=True):
                indices = next(order)
                if update >= self.start:
                    yield MicroBatch(indices, (self.seed, first + update, number))

    def __len__(self) -> int:
        """Number of updates in an epoch."""
        return ceil(ceil(len(self.sampler.dataset) / self.micro_batches) / self.batch_size)
