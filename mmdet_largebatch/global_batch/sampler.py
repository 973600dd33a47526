"""Form the micro-batches of an epoch and share them out to the ranks."""

from collections.abc import Iterator
from copy import copy
from itertools import islice
from math import ceil

from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.registry import DATA_SAMPLERS
from mmengine.dataset import DefaultSampler
from mmengine.dist import get_dist_info
from torch.utils.data import BatchSampler, Sampler

from ..checks import check_positive_integer, invalid
from ..errors import SettingError
from ..utils.type_names import type_name
from .seeding import MicroBatch

EMPTY = (
    'train_dataloader.dataset has 0 images. Must have at least 1: look at its ann_file, its '
    'metainfo.classes and its filter_cfg.'
)
GROUPING = 'AspectRatioBatchSampler'


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
        sampler (DefaultSampler): Has the dataset, whether to shuffle, and ``round_up``.
        batch_size (int): Images of a micro-batch.
        global_batch_size (int): Images of an update, over all ranks.
        grouping (dict, optional): Config of the batch sampler that groups the images of one
            micro-batch: ``dict(type='AspectRatioBatchSampler')``. None takes them as they come.
            Defaults to None.
        drop_last (bool): Whether to leave out an update at the end of an epoch whose micro-batches
            are not full. Defaults to False.
        order_seed (int, optional): Seed of the order of the images. None takes that of the run.
            Defaults to None.

    Raises:
        SettingError: If the dataset is empty, the micro-batch does not divide the global batch,
            there are more ranks than micro-batches, the samplers are others, an epoch has no
            update, or with ``round_up=False`` micro-batches are missing in its last one.

    Examples:
        >>> from mmengine.dataset import DefaultSampler
        >>> from mmdet_largebatch import GlobalBatchSampler
        >>> images = DefaultSampler(range(8), shuffle=False)
        >>> sampler = GlobalBatchSampler(images, batch_size=2, global_batch_size=4)
        >>> len(sampler)  # Updates an epoch.
        2
        >>> list(sampler)  # On one rank, which computes both micro-batches of an update.
        [[0, 2], [1, 3], [4, 6], [5, 7]]
    """

    def __init__(
        self,
        sampler: DefaultSampler,
        batch_size: int,
        global_batch_size: int,
        grouping: dict | None = None,
        drop_last: bool = False,
        order_seed: int | None = None,
    ) -> None:
        if type(sampler) is not DefaultSampler:
            wanted = 'DefaultSampler: a global batch is dealt from its order of the images'
            raise invalid('train_dataloader.sampler.type', type(sampler).__name__, wanted)
        if len(sampler.dataset) == 0:
            raise SettingError(EMPTY)
        check_positive_integer('train_dataloader.batch_size', batch_size)
        self.grouping = _checked_grouping(grouping)
        if global_batch_size % batch_size:
            below = global_batch_size - global_batch_size % batch_size
            wanted = (
                f'a multiple of the micro-batch, train_dataloader.batch_size={batch_size}, such as '
                f'{below or batch_size} or {below + batch_size}'
            )
            raise invalid('train_cfg.global_batch_size', global_batch_size, wanted)
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
        self.drop_last = drop_last
        self.order_seed = order_seed
        self.seed = sampler.seed
        self.epoch = self.start = self.order_epoch = 0
        self._check_length()

    @property
    def share(self) -> list[int]:
        """list[int]: Numbers of the micro-batches of each update that this rank computes."""
        return list(range(self.rank, self.micro_batches, self.ranks))

    def is_full(self, update: int) -> bool:
        """Return True if every micro-batch of an update has ``batch_size`` images.

        Args:
            update (int): Index of the update in the epoch.
        """
        fewest = self._images(self.micro_batches - 1)
        return update < len(self) - 1 or self.drop_last or fewest == len(self) * self.batch_size

    def begin(self, seed: int, epoch: int, update: int, order_epoch: int | None = None) -> None:
        """Set the epoch and the update that the next iteration starts from.

        Args:
            seed (int): Seed of the run, the same on every rank.
            epoch (int): The epoch, counted from 0.
            update (int): The update of that epoch to begin with, counted from 0.
            order_epoch (int, optional): The epoch whose order of the images is taken. Without
                ``DistSamplerSeedHook`` that is the first one each time. Defaults to ``epoch``.
        """
        self.seed, self.epoch, self.start = seed, epoch, update
        self.order_epoch = epoch if order_epoch is None else order_epoch

    def _images(self, number: int) -> int:
        """Return the number of images an epoch that ``DefaultSampler`` gives to rank ``number``."""
        short = 0 if self.sampler.round_up else number
        return ceil((len(self.sampler.dataset) - short) / self.micro_batches)

    def _updates(self, number: int) -> int:
        """Return the number of micro-batches with this index in an epoch."""
        images = self._images(number)
        return images // self.batch_size if self.drop_last else ceil(images / self.batch_size)

    def _check_length(self) -> None:
        images, last = len(self.sampler.dataset), self.micro_batches - 1
        if self._updates(last) != self._updates(0):
            wanted = (
                f'True: of {images} images the last update of an epoch has fewer than '
                f'{self.micro_batches} micro-batches'
            )
            raise invalid('train_dataloader.sampler.round_up', False, wanted)
        if len(self) == 0:
            wanted = (
                f'False: it leaves no update of {images} images, a global batch has '
                f'{self.global_batch_size}'
            )
            raise invalid('train_dataloader.drop_last', True, wanted)

    def _order(self, number: int) -> Iterator[list[int]]:
        """Return the micro-batches of an epoch that have this index in their updates."""
        sampler = copy(self.sampler)
        sampler.rank, sampler.world_size = number, self.micro_batches
        sampler.num_samples = self._images(number)
        sampler.total_size = len(sampler.dataset)
        if sampler.round_up:
            sampler.total_size = sampler.num_samples * self.micro_batches
        sampler.seed = self.seed if self.order_seed is None else self.order_seed
        sampler.set_epoch(self.order_epoch)
        group = BatchSampler if self.grouping is None else AspectRatioBatchSampler
        # Neither drops: mmdet's would at times drop a whole micro-batch too.
        return islice(group(sampler, self.batch_size, drop_last=False), len(self))

    def __iter__(self) -> Iterator[MicroBatch]:
        share = self.share
        orders = [self._order(number) for number in share]
        first = self.epoch * len(self)
        for update, micro_batches in enumerate(zip(*orders, strict=True)):
            for number, indices in zip(share, micro_batches, strict=True):
                if update >= self.start:
                    yield MicroBatch(indices, (self.seed, first + update, number))

    def __len__(self) -> int:
        """Number of updates in an epoch."""
        return self._updates(0)


def _checked_grouping(grouping: dict | None) -> dict | None:
    if grouping is None:
        return None
    kind = grouping.get('type')
    # Its own name in any scope is not enough: another class of it may count otherwise.
    found = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
    if found is not AspectRatioBatchSampler:
        wanted = f'{GROUPING} of mmdet or none under GlobalBatchTrainLoop'
        raise invalid('train_dataloader.batch_sampler.type', type_name(kind), wanted)
    surplus = set(grouping) - {'type', '_scope_'}
    if surplus:
        name, wanted = min(surplus), f'left out: {GROUPING} does not know it'
        raise invalid(f'train_dataloader.batch_sampler.{name}', grouping[name], wanted)
    return grouping
