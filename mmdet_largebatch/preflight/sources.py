"""Find the data sets that a config builds."""

import inspect
import os.path as osp
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.fileio import list_from_file
from mmengine.registry import Registry
from mmengine.utils import is_abs

from ..utils.type_names import is_stock, type_name

LOADERS = ('LoadAnnotations',)


def resolve(registry: Registry, config: Any) -> type | None:
    """Return the class that a config names, None if unknown."""
    kind = config.get('type')
    if isinstance(kind, str):
        try:
            kind = registry.get(kind)
        except Exception:  # The name cannot be imported. Building reports it.
            return None
    return kind if inspect.isclass(kind) else None


def is_local(config: Mapping) -> bool:
    """Return True if a part of a config reads local files."""
    # mmcv still takes file_client_args, in which the local backend is named disk.
    backends = (config.get('backend_args'), config.get('file_client_args'))
    return all(not x or x.get('backend') in ('local', 'disk') for x in backends)


def transforms_of(node: Any) -> Iterator[Mapping]:
    """Iterate over all transforms of a pipeline, nested ones included."""
    if isinstance(node, Mapping):
        if node.get('type') is not None:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for value in node:
            if isinstance(value, (Mapping, list, tuple)):
                yield from transforms_of(value)


def inherits(kind: type | None, base: type, *members: str) -> bool:
    """Return True if a class is a `base` and does not override its `members`."""
    member = inspect.getattr_static
    return (
        kind is not None
        and issubclass(kind, base)
        and all(member(kind, name) is member(base, name) for name in members)
    )


@dataclass
class Source:
    """A data set of a config.

    Attributes:
        split (str): ``'train'``, ``'val'`` or ``'test'``.
        setting (str): Its place in the config.
        config (dict): Its config.
        kind (type, optional): Its class.
        pipelines (list): The pipelines of its pictures, outermost first.
    """

    split: str
    setting: str
    config: Mapping
    kind: type | None
    pipelines: list

    @property
    def is_coco(self) -> bool:
        """bool: True if it reads its file as :class:`CocoDataset` does."""
        own = ('_load_metainfo', 'metainfo', '_join_prefix', 'full_init', 'load_data_list')
        return (
            inherits(self.kind, CocoDataset, *own)
            and is_stock(self.kind, '__init__')
            and getattr(self.kind, 'COCOAPI', None) is CocoDataset.COCOAPI
        )

    @property
    def takes_metainfo(self) -> bool:
        """bool: True if it reads its class names as MMEngine's data sets do."""
        own = ('_load_metainfo', 'metainfo')
        return inherits(self.kind, BaseDataset, *own) and is_stock(self.kind, '__init__')

    @property
    def parses_as_coco(self) -> bool:
        """bool: True if it parses objects as :class:`CocoDataset` does."""
        return self.is_coco and inherits(self.kind, CocoDataset, 'parse_data_info')

    @property
    def filters_as_coco(self) -> bool:
        """bool: True if it filters pictures as :class:`CocoDataset` does."""
        return self.parses_as_coco and inherits(self.kind, CocoDataset, 'filter_data')

    @property
    def loads_as_coco(self) -> bool:
        """bool: True if its pipeline gets pictures and masks as :class:`CocoDataset` gives them."""
        own = ('get_data_info', 'prepare_data', '__getitem__')
        return self.filters_as_coco and inherits(self.kind, CocoDataset, *own)

    def reads(self, key: str) -> bool:
        """Return True if a setting, ``ann_file`` or ``proposal_file``, is a path that it reads."""
        reader = dict(ann_file='load_data_list', proposal_file='load_proposals')[key]
        return is_stock(self.kind, '__init__', '_join_prefix', 'full_init', reader)

    def join(self, path: str) -> str:
        """Join a path with ``data_root`` as MMEngine does."""
        root = self.config.get('data_root')
        return osp.join(root, path) if root and not is_abs(path) else path

    @property
    def ann_file(self) -> Any:
        """str: The annotation file, joined with ``data_root``."""
        name = self.config.get('ann_file')
        return self.join(name) if name and isinstance(name, str) else name

    @property
    def is_local(self) -> bool:
        """bool: True if the annotation file is on this machine."""
        return is_local(self.config) and '://' not in str(self.ann_file)

    @property
    def classes(self) -> Any:
        """The class names, as MMEngine resolves them; None if none are on this machine."""
        metainfo = self.config.get('metainfo') or {}
        classes = getattr(self.kind, 'METAINFO', {}).get('classes')
        classes = metainfo.get('classes', classes)
        if isinstance(classes, str) and '://' in classes:
            return None
        if isinstance(classes, str) and osp.isfile(classes):
            return list_from_file(classes)
        return classes

    @property
    def transforms(self) -> list[Mapping]:
        """list[dict]: All transforms of its pictures, up to the first that is a user's own.

        The user's own may change paths and objects, which later transforms load.
        """
        ordered = transforms_of(self.pipelines[::-1])
        return list(takewhile(lambda x: is_stock(resolve(TRANSFORMS, x)), ordered))

    @property
    def mask_loader(self) -> Mapping | None:
        """dict, optional: The transform that loads masks."""
        loaders = (x for x in self.transforms if type_name(x) in LOADERS)
        return next((x for x in loaders if x.get('with_mask')), None)


def sources_of(cfg: Config, split: str) -> list[Source]:
    """Find the data sets of one split, also inside wrappers.

    A wrapper that is a user's own may change the settings inside. It counts as a data set.
    """

    def walk(node: Any, setting: str, pipelines: list) -> Iterator[Source]:
        if isinstance(node, (list, tuple)):
            for index, one in enumerate(node):
                yield from walk(one, f'{setting}.{index}', pipelines)
        elif isinstance(node, Mapping):
            pipelines = [*pipelines, node.get('pipeline')]
            inner = [key for key in ('dataset', 'datasets') if node.get(key)]
            kind = resolve(DATASETS, node)
            if not inner or not is_stock(kind, '__init__'):
                yield Source(split, setting, node, kind, pipelines)
                return
            for key in inner:
                yield from walk(node[key], f'{setting}.{key}', pipelines)

    loader = cfg.get(f'{split}_dataloader')
    inner = loader.get('dataset') if isinstance(loader, Mapping) else None
    return list(walk(inner, f'{split}_dataloader.dataset', []))
