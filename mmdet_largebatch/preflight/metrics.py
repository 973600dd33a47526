"""Find the metrics that a config builds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmdet.evaluation import CocoMetric, VOCMetric
from mmdet.registry import EVALUATOR, METRICS
from mmengine.config import Config
from mmengine.evaluator import Evaluator

from ..utils.type_names import is_stock
from .sources import inherits, is_local, resolve


@dataclass
class Metric:
    """A metric of a config.

    Attributes:
        split (str): ``'val'`` or ``'test'``.
        setting (str): Its place in the config.
        config (dict): Its config.
        for_all (bool): True if it gets the predictions on all data sets of the split.
    """

    split: str
    setting: str
    config: Mapping
    for_all: bool

    @property
    def ann_file(self) -> Any:
        """str, optional: Its own annotation file."""
        return self.config.get('ann_file')

    @property
    def is_local(self) -> bool:
        """bool: True if it has an annotation file on this machine."""
        return bool(self.ann_file) and is_local(self.config) and '://' not in str(self.ann_file)

    @property
    def kind(self) -> type | None:
        """type, optional: Its class."""
        return resolve(METRICS, self.config)

    @property
    def reads_ann_file(self) -> bool:
        """bool: True if ``ann_file`` is a path that it reads."""
        return isinstance(self.ann_file, str) and is_stock(self.kind, '__init__')

    @property
    def is_coco(self) -> bool:
        """bool: True if it computes an AP as :class:`CocoMetric` does."""
        own = ('__init__', 'process', 'evaluate', 'compute_metrics', 'results2json')
        return inherits(self.kind, CocoMetric, *own)

    @property
    def is_voc(self) -> bool:
        """bool: True if it computes an AP as :class:`VOCMetric` does."""
        return inherits(self.kind, VOCMetric, '__init__', 'process', 'evaluate', 'compute_metrics')

    @property
    def names(self) -> list[str]:
        """list[str]: Names of its results, such as ``'bbox'``."""
        names = self.config.get('metric', 'bbox')
        return [names] if isinstance(names, str) else list(names)

    @property
    def of_proposals(self) -> bool:
        """bool: True if it evaluates proposals alone, whose classes are not read."""
        return self.is_coco and all(str(name).startswith('proposal') for name in self.names)

    @property
    def evaluates(self) -> bool:
        """bool: True if it computes an AP, False if it only writes predictions."""
        return self.is_coco and not self.config.get('format_only')


def metrics_of(cfg: Config, split: str) -> list[Metric]:
    """Find the metrics of one split: none of ``'train'`` and of a user's own evaluator."""
    name = f'{split}_evaluator'
    node, for_all = cfg.get(name), True
    if isinstance(node, Mapping) and 'metrics' in node:
        kind = resolve(EVALUATOR, node) if node.get('type') else Evaluator
        if not is_stock(kind, '__init__'):
            return []
        # MultiDatasetsEvaluator gives each metric the predictions on one data set.
        for_all = is_stock(kind, 'process', 'evaluate') and not node.get('dataset_prefixes')
        name, node = f'{name}.metrics', node['metrics']
    if isinstance(node, Mapping):
        return [Metric(split, name, node, for_all)]
    return [
        Metric(split, f'{name}.{index}', one, for_all)
        for index, one in enumerate(node or [])
        if isinstance(one, Mapping)
    ]
