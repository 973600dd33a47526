"""Test-time augmentation and drawing on every rank, for ``test.py``."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import mmengine.dist.utils
from mmdet.models import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner

from ..errors import SettingError
from ..utils.local_rank import is_first_of_machine
from ..utils.type_names import type_name


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
        SettingError: If the pipeline does not end in ``PackDetInputs``, or masks alone are
            evaluated.
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
    evaluators = cfg.test_evaluator
    for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
        metrics = evaluator.get('metric')
        metrics = [metrics] if isinstance(metrics, str) else list(metrics or [])
        if 'segm' not in metrics:
            continue
        evaluator['metric'] = [metric for metric in metrics if metric != 'segm']
        if not evaluator['metric']:
            raise SettingError(
                '--tta merges boxes alone. test_evaluator.metric must have bbox, or tta_model a '
                'type that merges masks.'
            )
        if is_first_of_machine():
            print(
                'note: --tta merges boxes alone; test_evaluator.metric=segm is left out.',
                file=sys.stderr,
            )


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
