"""Check the options of a metric by a trial: an evaluation of perfect predictions on one picture."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.registry import HOOKS, LOOPS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger
from pycocotools.mask import frPyObjects

from ..checks import invalid
from ..utils.config_parts import named_hooks
from ..utils.type_names import is_stock
from .classes import classes_of, predicts_masks
from .metrics import Metric
from .rows import Shown, listed, shown
from .sources import Source, resolve

# Right values of the options that can make CocoMetric or VOCMetric fail.
RIGHT = {
    'CocoMetric': dict(
        metric="'bbox', 'segm', 'proposal' or 'proposal_fast', or a list [...] of them",
        proposal_nums='at least three numbers, one of them 100',
        classwise='False, where iou_thrs is set',
        iou_thrs="None (0.5 to 0.95), or a numpy array; AP at 0.5 alone is metric_items=['mAP_50']",
        metric_items="None, or a list of 'mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', "
        "'AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000' and 'AR_l@1000'",
        format_only='False, or outfile_prefix must be set',
    ),
    'VOCMetric': dict(
        metric="'mAP' or 'recall'",
        proposal_nums='a list of numbers',
        iou_thrs='a number such as 0.5, or a list [...] of numbers',
        scale_ranges='None, or a list of pairs of numbers',
        eval_mode="'area' or '11points'",
    ),
}
# What has no part in the trial: the ground truth is that of the picture.
FILES = ('type', '_scope_', 'ann_file', 'backend_args', 'sort_categories')


@contextmanager
def _silence() -> Iterator[None]:
    """Hide output, log and warnings of an evaluation."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def _perfect() -> dict:
    """Return a picture with a small, a medium and a large object, all of them detected."""
    sides, size = (9, 49, 199), 256
    boxes = torch.tensor([[0.0, 0.0, side, side] for side in sides])
    objects = dict(bboxes=boxes, labels=torch.zeros(3, dtype=torch.long))
    polygons = [[0, 0, side, 0, side, side, 0, side] for side in sides]
    masks = frPyObjects(polygons, size, size)
    return dict(
        img_id=0,
        ori_shape=(size, size),
        instances=[
            dict(bbox=box, bbox_label=0, mask=dict(mask))
            for box, mask in zip(boxes.tolist(), masks, strict=True)
        ],
        gt_instances=objects,
        ignored_instances={key: value[:0] for key, value in objects.items()},
        pred_instances=dict(objects, scores=torch.ones(3), masks=masks),
    )


def _trial(kind: Any, options: dict, classes: Sequence[str]) -> tuple[set[str], str | None]:
    """Return the names that an evaluation with the options logs, and the defect of the results."""
    try:
        with TemporaryDirectory() as folder, _silence():
            if options.get('outfile_prefix') is not None:
                options = {**options, 'outfile_prefix': f'{folder}/results'}
            metric = kind(**options)
            metric.dataset_meta = dict(classes=classes)
            metric.process({}, [_perfect()])
            results = metric.compute_metrics(metric.results)
    except Exception as error:
        return set(), f'{kind.__name__} ends in {type(error).__name__} with this'
    logged = {f'{metric.prefix}/{name}': value for name, value in results.items()}
    lost = [name for name, value in logged.items() if name.endswith('_mAP') and value == -1]
    return set(logged), f'{lost[0]} of perfect predictions is -1 with this' if lost else None


def logged_names(metric: Metric, classes: Sequence[str] | None) -> set[str] | None:
    """Return the names that a metric logs; refuse an option with which no evaluation can succeed.

    Args:
        metric (Metric): The metric.
        classes (Sequence[str], optional): The class names.

    Returns:
        set[str], optional: The names, None if they are not known.

    Raises:
        SettingError: If an option is wrong.
    """
    # COCOevalMP starts processes, and takes any proposal_nums.
    if not (metric.is_coco or metric.is_voc) or metric.config.get('use_mp_eval'):
        return None
    kind, names = metric.kind, classes or ('object',)
    options = {key: value for key, value in metric.config.items() if key not in FILES}
    logged, defect = _trial(kind, options, names)
    if defect is None:
        return None if options.get('classwise') and classes is None else logged

    def fails(some: dict) -> bool:
        return _trial(kind, some, names)[1] is not None

    if fails({}):  # A release for which the trial is none.
        return None
    right = RIGHT['CocoMetric' if metric.is_coco else 'VOCMetric']
    given = [key for key in right if key in options]
    wrong = [key for key in given if not fails({x: options[x] for x in options if x != key})]
    # Of several wrong options, the first that is wrong alone.
    wrong = wrong or [key for key in given if fails({key: options[key]})]
    if wrong:
        setting, value = f'{metric.setting}.{wrong[0]}', shown(options[wrong[0]])
        raise invalid(setting, value, f'{right[wrong[0]]}: {defect}')
    return None  # An argument of no such name, which building refuses.


def _check_ground_truth(metric: Metric, source: Source) -> None:
    """Refuse a pipeline of stock transforms that does not hand the ground truth to the metric."""
    pipeline = [(resolve(TRANSFORMS, x), x) for x in source.transforms]
    packed = [x for kind, x in pipeline if kind is PackDetInputs]
    if not packed or not is_stock(source.kind):
        return
    if metric.is_coco and metric.config.get('ann_file') is None:
        if 'instances' not in (packed[-1].get('meta_keys') or ()):
            wanted = (
                f'the annotation file; or meta_keys of PackDetInputs in {source.setting}.pipeline '
                "must contain 'instances'"
            )
            raise invalid(f'{metric.setting}.ann_file', None, wanted)
    if metric.is_voc and not any('Annotations' in kind.__name__ for kind, _ in pipeline if kind):
        names = Shown(f'[{listed([kind.__name__ for kind, _ in pipeline if kind])}]')
        wanted = f"with dict(type='LoadAnnotations', with_bbox=True): {metric.setting} reads boxes"
        raise invalid(f'{source.setting}.pipeline', names, wanted)


def _check_save_best(cfg: Config, names: set[str]) -> None:
    """Refuse ``save_best`` of a name that the metrics do not log.

    A user's own model, loop or hook may add names.
    """
    hooks = named_hooks(cfg)
    kinds = [resolve(HOOKS, x) for _, x in hooks]
    others = [resolve(LOOPS, cfg.get('val_cfg') or {}), resolve(MODELS, cfg.get('model') or {})]
    if not all(is_stock(kind) for kind in [*kinds, *others] if kind is not None):
        return
    for (setting, hook), kind in zip(hooks, kinds, strict=True):
        if kind is None or not issubclass(kind, CheckpointHook):
            continue
        wanted = hook.get('save_best') or []
        for name in [wanted] if isinstance(wanted, str) else wanted:
            if name != 'auto' and name not in names:
                right = f"'auto', or a name that the evaluation logs: {listed(sorted(names))}"
                raise invalid(f'{setting}.save_best', name, right)


def check_metrics(
    cfg: Config, metrics: list[Metric], sources: list[Source], classes: dict[str, tuple[str, ...]]
) -> None:
    """Refuse metrics with which each evaluation fails.

    Args:
        cfg (Config): The config.
        metrics (list[Metric]): Its metrics.
        sources (list[Source]): Its data sets.
        classes (dict[str, tuple[str, ...]]): Class names of the data sets, by setting.

    Raises:
        SettingError: If options, pipeline, masks or ``save_best`` are wrong.
    """
    logged: set[str] | None = set()
    for metric in metrics:
        mine = [source for source in sources if source.split == metric.split]
        names = logged_names(metric, classes_of(mine, classes))
        for source in mine:
            _check_ground_truth(metric, source)
        if metric.split == 'val' and logged is not None:
            logged = logged | names if names is not None and metric.for_all else None
        if metric.evaluates and 'segm' in metric.names and not predicts_masks(cfg):
            wanted = "'bbox': 'segm' needs masks, and the model predicts none"
            raise invalid(f'{metric.setting}.metric', metric.config.get('metric'), wanted)
    if logged:
        _check_save_best(cfg, logged)
