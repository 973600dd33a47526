"""Put the sampler of the global batch into a data loader's config."""

from typing import Any

from mmdet.registry import DATASETS
from torch.utils.data import Sampler

from ..checks import check, check_positive_integer, invalid
from ..compat import SlicedDataset
from ..errors import SettingError
from ..utils.type_names import type_name
from .sampler import GlobalBatchSampler


def with_global_batch(dataloader: dict, global_batch_size: int) -> dict:
    """Replace the batch sampler of a data loader's config.

    Every option of the loader, of ``DefaultSampler`` and of ``AspectRatioBatchSampler`` keeps its
    meaning, for one rank a micro-batch.

    Args:
        dataloader (dict): The config; it is not changed.
        global_batch_size (int): Images of an update.

    Returns:
        dict: The config to build.

    Raises:
        SettingError: If an option cannot be kept.
    """
    dataloader = dict(dataloader)
    for key in ('dataset', 'sampler'):
        found = dataloader.get(key)
        check(found is not None, f'train_dataloader.{key}', found, 'set for a training')
    _refuse(dataloader)
    grouping = dataloader.pop('batch_sampler', None)
    if isinstance(grouping, GlobalBatchSampler):
        return dataloader | dict(batch_sampler=grouping)
    if grouping is not None and not isinstance(grouping, dict):
        wanted = 'a config or None under GlobalBatchTrainLoop'
        raise invalid('train_dataloader.batch_sampler', type(grouping).__name__, wanted)
    ours: dict[str, Any] = dict(type=GlobalBatchSampler, grouping=grouping)
    if grouping is not None and type_name(grouping) == 'GlobalBatchSampler':
        ours, grouping = dict(grouping), None
    elif grouping is not None:
        # Of both sizes MMEngine takes the batch sampler's.
        grouping = dict(grouping)
        inner = grouping.pop('sampler', None)
        wanted = 'left out: train_dataloader.sampler is used'
        check(inner is None, 'train_dataloader.batch_sampler.sampler', inner, wanted)
        if 'batch_size' in grouping:
            ours['batch_size'] = grouping.pop('batch_size')
        dataloader['drop_last'] = grouping.pop('drop_last', False) or dataloader.pop(
            'drop_last', False
        )
        ours['grouping'] = grouping
    drop_last = bool(dataloader.pop('drop_last', False))
    # What DataLoader takes where the config says nothing.
    batch_size = ours.get('batch_size', dataloader.get('batch_size', 1))
    check_positive_integer('train_dataloader.batch_size', batch_size)
    dataloader['batch_size'] = batch_size
    ours = dict(drop_last=drop_last, order_seed=_order_seed(dataloader['sampler'])) | ours
    images = _images_per_epoch(dataloader, global_batch_size)
    if images is not None:
        dataloader['dataset'] = dict(
            type=first_images, dataset=dataloader['dataset'], images=images
        )
    dataloader['batch_sampler'] = ours | dict(global_batch_size=global_batch_size)
    return dataloader


def first_images(dataset: Any, images: int) -> SlicedDataset:
    """Build a dataset and take its first images, as MMEngine does for ``num_batch_per_epoch``.

    Args:
        dataset (dict or Dataset): The dataset or its config.
        images (int): Number of images.

    Returns:
        SlicedDataset: The images.

    Raises:
        SettingError: If there are fewer.
    """
    if isinstance(dataset, dict):
        dataset = DATASETS.build(dataset)
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
    if images > len(dataset):
        raise SettingError(
            f'train_dataloader.num_batch_per_epoch needs {images} images and the dataset has '
            f'{len(dataset)}. Must be at most so many updates of the global batch.'
        )
    return SlicedDataset(dataset, images)


def _refuse(dataloader: dict) -> None:
    """Refuse options of ``DataLoader`` that exclude a sampler, or the order of its batches."""
    if dataloader.get('shuffle'):
        wanted = 'left out: train_dataloader.sampler.shuffle says it'
        raise invalid('train_dataloader.shuffle', dataloader['shuffle'], wanted)
    wanted = (
        'True under GlobalBatchTrainLoop: the draws of a micro-batch are seeded by its place in '
        'the order'
    )
    in_order = dataloader.get('in_order')
    check(in_order is not False, 'train_dataloader.in_order', in_order, wanted)


def _order_seed(sampler: Any) -> int | None:
    if isinstance(sampler, dict):
        return sampler.get('seed')
    return getattr(sampler, 'seed', None) if isinstance(sampler, Sampler) else None


def _images_per_epoch(dataloader: dict, global_batch_size: int) -> int | None:
    updates = dataloader.pop('num_batch_per_epoch', None)
    if updates is None:
        return None
    check_positive_integer('train_dataloader.num_batch_per_epoch', updates)
    return updates * global_batch_size
