"""Test-time augmentation, files of predictions and drawing on every rank, for ``test.py``."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, cast

import mmengine.dist.utils
from mmdet.evaluation import (
    CityScapesMetric,
    CocoOccludedSeparatedMetric,
    CocoPanopticMetric,
    DumpDetResults,
    SemSegMetric,
)
from mmdet.models import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from ..checks import invalid
from ..errors import SettingError
from ..preflight.metrics import metrics_of
from ..utils.local_rank import is_first_of_machine
from ..utils.type_names import type_name

# Metrics that need masks, or maps of segments.
OF_MASKS = (CityScapesMetric, CocoOccludedSeparatedMetric, CocoPanopticMetric, SemSegMetric)


@MODELS.register_module()
class BoxTTAModel(DetTTAModel):
    """Merge the boxes of several views of a picture, without the masks that mmdet's own refuses.

    Args:
        tta_cfg (dict): ``nms`` and ``max_per_img`` for the boxes of all views.
        **kwargs: ``module`` (the model) and ``data_preprocessor``.
    """

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        for sample in data_samples:
            sample.pred_instances.pop('masks', None)
        return super()._merge_single_sample(data_samples)


def use_test_time_augmentation(cfg: Config) -> None:
    """Wrap model and pipeline for test-time augmentation.

    The augmentation is a horizontal flip, unless the config has ``tta_model`` and ``tta_pipeline``.

    Args:
        cfg (Config): The config, changed in place.

    Raises:
        SettingError: If the pipeline does not end in ``PackDetInputs``, or a metric needs masks.
    """
    nms = dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)
    model = deepcopy(cfg.get('tta_model')) or dict(type='DetTTAModel', tta_cfg=nms)
    if type_name(model) == 'DetTTAModel':
        model['type'] = 'mmdet.BoxTTAModel'
        _leave_out_masks(cfg)
    for dataset in _datasets(cfg.test_dataloader.dataset):
        pipeline = cfg.get('tta_pipeline') or _flipped(dataset.pipeline)
        dataset.pipeline = deepcopy(pipeline)
    model['module'] = cfg.model
    cfg.model = model


def _datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Iterate over the datasets that have a pipeline, also inside wrappers."""
    inner = dataset.get('datasets') or [dataset[key] for key in ('dataset',) if key in dataset]
    for one in inner:
        yield from _datasets(one)
    if not inner:
        yield dataset


def _flipped(pipeline: list[dict]) -> list[dict]:
    """Return a pipeline that packs each picture and its mirror image."""
    *before, pack = deepcopy(pipeline or [{}])
    if type_name(pack) != 'PackDetInputs':
        raise SettingError(
            '--tta flips before PackDetInputs, which must be the last of test_dataloader.dataset.'
            f'pipeline; {type_name(pack) or None} is. Or set tta_pipeline.'
        )
    if pack.get('meta_keys'):
        pack['meta_keys'] = tuple(dict.fromkeys([*pack['meta_keys'], 'flip', 'flip_direction']))
    flips = [dict(type='mmdet.RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    return [*before, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def _leave_out_masks(cfg: Config) -> None:
    """Remove masks from the evaluation, since only boxes are merged."""
    for metric in metrics_of(cfg, 'test'):
        if issubclass(metric.kind or object, OF_MASKS):
            wanted = (
                'a metric of boxes, such as CocoMetric, with --tta, which merges boxes alone; or '
                'tta_model a type that merges masks'
            )
            raise invalid(f'{metric.setting}.type', type_name(metric.config), wanted)
        names, config = metric.names, cast(ConfigDict, metric.config)
        if 'segm' not in names:
            continue
        config['metric'] = [name for name in names if name != 'segm']
        if not config['metric']:
            raise SettingError(
                f'--tta merges boxes alone. {metric.setting}.metric must have bbox, or tta_model a '
                'type that merges masks.'
            )
        if is_first_of_machine():
            print(
                f'note: --tta merges boxes alone; {metric.setting}.metric=segm is left out.',
                file=sys.stderr,
            )


def dump_predictions(evaluator: Evaluator, path: str) -> None:
    """Write the predictions before an evaluator computes its metrics, which may fail.

    Args:
        evaluator (Evaluator): The evaluator, changed in place. Some take each metric for that of
            one data set, so the writer is no metric of theirs.
        path (str): The .pkl file.
    """
    dump = DumpDetResults(out_file_path=path)
    process, evaluate = evaluator.process, evaluator.evaluate

    def dumped_process(data_samples: Sequence, data_batch: Any = None) -> None:
        rows = [x.to_dict() if isinstance(x, BaseDataElement) else x for x in data_samples]
        dump.process(data_batch, rows)
        process(data_samples, data_batch)

    def dumped_evaluate(size: int) -> dict:
        # Set by the user, or by MetricCollectionHook.
        if any(metric.collect_device == 'gpu' for metric in evaluator.metrics):
            dump.collect_device = 'gpu'
        dump.evaluate(size)
        return evaluate(size)

    evaluator.process, evaluator.evaluate = dumped_process, dumped_evaluate


def draw_on_every_rank(runner: Runner) -> None:
    """Draw on each rank the pictures that it tests; mmdet draws those of the main process alone.

    Args:
        runner (Runner): The runner, with a hook that has a ``test_out_dir``.
    """
    for hook in runner.hooks:
        if getattr(hook, 'test_out_dir', None) is not None:
            # The main process alone shows a window.
            hook.show = hook.show and runner.rank == 0
            hook.after_test_iter = partial(_drawn, hook.after_test_iter)


def _drawn(after_test_iter: Callable, runner: Runner, *args: Any, **kwargs: Any) -> None:
    with _as_main_process():
        runner.visualizer.dataset_meta = runner.test_dataloader.dataset.metainfo
        after_test_iter(runner, *args, **kwargs)


@contextmanager
def _as_main_process() -> Iterator[None]:
    """Let methods under ``master_only`` run, such as those of a visualizer."""
    asked = mmengine.dist.utils.is_main_process
    mmengine.dist.utils.is_main_process = lambda group=None: True
    try:
        yield
    finally:
        mmengine.dist.utils.is_main_process = asked
