"""Data sets, wrappers, transforms, metrics and heads that a user brings.

Each reads or completes its settings in its own way. `OWN` maps a name to a function that puts the
class into a config. A stock class would fail with these settings.
"""

import json
import os
from pathlib import Path

from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.models import Shared2FCBBoxHead
from mmdet.registry import DATASETS, METRICS, MODELS, TRANSFORMS
from mmengine.evaluator import Evaluator
from mmengine.registry import EVALUATOR
from torch.utils.data import Dataset

CLASSES = ('circle', 'square', 'triangle')


@DATASETS.register_module()
class OwnInit(CocoDataset):
    """It knows its files and classes."""

    def __init__(self, split, data_root, pipeline):
        super().__init__(
            ann_file=f'annotations/instances_{split}.json',
            data_root=data_root,
            data_prefix=dict(img=f'{split}/'),
            metainfo=dict(classes=CLASSES),
            pipeline=pipeline,
        )


@DATASETS.register_module()
class OwnJoin(CocoDataset):
    """Its annotation files are in a folder of their own."""

    def _join_prefix(self):
        self.ann_file = os.path.join('annotations', self.ann_file)
        super()._join_prefix()


@DATASETS.register_module()
class OwnMetainfo(CocoDataset):
    """Its classes have other names in its configs."""

    @classmethod
    def _load_metainfo(cls, metainfo=None):
        return dict(classes=tuple(name.lower() for name in metainfo['classes']))


@DATASETS.register_module()
class OwnLabels(CocoDataset):
    """All objects are of one class."""

    def parse_data_info(self, raw_data_info):
        self.cat_ids = {row['category_id']: 0 for row in raw_data_info['raw_ann_info']}
        self.cat2label = self.cat_ids
        return super().parse_data_info(raw_data_info)


@DATASETS.register_module()
class OwnFilter(CocoDataset):
    """It leaves out images without a file."""

    def filter_data(self):
        return [info for info in self.data_list if os.path.exists(info['img_path'])]


@DATASETS.register_module()
class OwnFolder(CocoDataset):
    """It reads the pictures of another folder."""

    def get_data_info(self, idx):
        info = super().get_data_info(idx)
        info['img_path'] = info['img_path'].replace('/smaller/', '/')
        return info


@DATASETS.register_module()
class OwnSet(Dataset):
    """No data set of MMEngine's."""

    def __init__(self, data_root, ann_file):
        self.content = json.loads((Path(data_root) / 'annotations' / ann_file).read_text())

    def __len__(self):
        return len(self.content['images'])

    def __getitem__(self, index):
        return self.content['images'][index]


@DATASETS.register_module()
class OwnWrapper:
    """It completes the settings of the data set inside."""

    def __init__(self, dataset, split):
        inner = dict(
            ann_file=f'annotations/instances_{split}.json', data_prefix=dict(img=f'{split}/')
        )
        self.dataset = DATASETS.build({**dataset, **inner})
        self.metainfo = self.dataset.metainfo

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


@TRANSFORMS.register_module()
class OwnPath(BaseTransform):
    """The pictures are in another folder."""

    def transform(self, results):
        return results | dict(img_path=results['img_path'].replace('/smaller/', '/'))


@METRICS.register_module()
class OwnMetric(CocoMetric):
    """It joins its path with a folder."""

    def __init__(self, data_root, ann_file, **kwargs):
        super().__init__(ann_file=f'{data_root}/annotations/{ann_file}', **kwargs)


@EVALUATOR.register_module()
class OwnEvaluator(Evaluator):
    """It joins the paths of its metrics with a folder."""

    def __init__(self, metrics, data_root):
        super().__init__({**metrics, 'ann_file': f'{data_root}/annotations/{metrics["ann_file"]}'})


@MODELS.register_module()
class OwnHead(Shared2FCBBoxHead):
    """It counts the background as a class."""

    def __init__(self, num_classes, **kwargs):
        super().__init__(num_classes=num_classes - 1, **kwargs)


def _data(kind, **settings):
    """Put a class of data sets, with some of its settings changed, into train and val."""

    def put(cfg):
        for split in ('train', 'val'):
            dataset = cfg[f'{split}_dataloader'].dataset
            dataset.type = kind
            dataset.update({key: value(split) for key, value in settings.items()})
        return cfg

    return put


def _own_init(cfg):
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        cfg[f'{split}_dataloader'].dataset = dict(
            type='OwnInit', split=split, data_root=dataset.data_root, pipeline=dataset.pipeline
        )
    return cfg


def _own_set(cfg):
    for split in ('train', 'val'):
        root = cfg[f'{split}_dataloader'].dataset.data_root
        cfg[f'{split}_dataloader'].dataset = dict(
            type='OwnSet', data_root=root, ann_file=f'instances_{split}.json'
        )
    return cfg


def _own_wrapper(cfg):
    for split in ('train', 'val'):
        inner = cfg[f'{split}_dataloader'].dataset
        inner.update(ann_file='to be completed', data_prefix=dict(img='to be completed'))
        cfg[f'{split}_dataloader'].dataset = dict(type='OwnWrapper', dataset=inner, split=split)
    return cfg


def _one_class(cfg):
    for part in ('bbox_head', 'mask_head'):
        cfg.model.roi_head[part].num_classes = 1
    cfg.val_evaluator = dict(type='VOCMetric')
    return _data('OwnLabels', metainfo=lambda split: dict(classes=('object',)))(cfg)


def _own_path(cfg):
    cfg = _data('CocoDataset', data_prefix=_smaller)(cfg)
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.pipeline.insert(0, dict(type='OwnPath'))
    return cfg


def _own_metric(cfg):
    root = cfg.val_dataloader.dataset.data_root
    cfg.val_evaluator.update(type='OwnMetric', data_root=root, ann_file='instances_val.json')
    return cfg


def _own_evaluator(cfg):
    root = cfg.val_dataloader.dataset.data_root
    metrics = dict(cfg.val_evaluator, ann_file='instances_val.json')
    cfg.val_evaluator = dict(type='OwnEvaluator', metrics=metrics, data_root=root)
    return cfg


def _own_head(cfg):
    cfg.model.roi_head.bbox_head.update(type='OwnHead', num_classes=4)
    return cfg


def _smaller(split):
    return dict(img=f'smaller/{split}/')


OWN = {
    'settings of its own': _own_init,
    'a folder of annotations': _data('OwnJoin', ann_file=lambda split: f'instances_{split}.json'),
    'names of classes': _data(
        'OwnMetainfo', metainfo=lambda split: dict(classes=[name.upper() for name in CLASSES])
    ),
    'labels': _one_class,
    'a filter': _data('OwnFilter'),
    'a folder of pictures': _data('OwnFolder', data_prefix=_smaller),
    'a data set of torch': _own_set,
    'a wrapper': _own_wrapper,
    'a transform': _own_path,
    'a metric': _own_metric,
    'an evaluator': _own_evaluator,
    'a head': _own_head,
}
