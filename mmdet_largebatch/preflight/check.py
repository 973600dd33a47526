"""Check the data and the settings that describe them, before anything is built."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from mmengine.config import Config

from ..checks import check
from ..errors import SettingError
from ..utils.garbage import paused_gc
from .classes import (
    categories_in_use,
    check_heads,
    check_no_text,
    check_same_classes,
    class_names,
    classes_of,
    has_classes,
)
from .coco_file import CocoFile
from .evaluators import (
    Contents,
    batches_left_out,
    check_same_order,
    check_same_set,
    images_left_out,
)
from .metric_options import check_metrics
from .metrics import Metric, metrics_of
from .objects import Objects, check_for_metric, nothing_left, objects_left_out
from .pictures import check_decoders, check_pictures
from .sources import Source, sources_of


@dataclass
class Findings:
    """Findings of the checks so far.

    Attributes:
        warnings (list[str]): Warnings, a line each.
        classes (dict): Class names of each data set, by setting.
        contents (dict): Contents of each file, by path.
        image_ids (dict): Ids of the images that each data set reads, by setting.
        empty (dict): The error line of each data set without objects to train on, by setting.
    """

    warnings: list[str] = field(default_factory=list)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    contents: dict[str, Contents] = field(default_factory=dict)
    image_ids: dict[str, list] = field(default_factory=dict)
    empty: dict[str, str] = field(default_factory=dict)


def _check_exists(path: str) -> None:
    if not os.path.exists(path):
        raise SettingError(
            f'ann_file={path}: no such annotation file. Put the data there, or set data_root '
            'and ann_file; the shapes are written by `python tools/make_shapes.py`.'
        )


def _check_paths(sources: list[Source], metrics: list[Metric]) -> None:
    """Refuse files that do not exist, for any class of MMDetection's."""
    for source in sources:
        if source.is_coco:
            name = source.config.get('ann_file')
            wanted = 'one COCO file; ConcatDataset joins a data set for each of several'
            setting = f'{source.setting}.ann_file'
            check(isinstance(name, str) and name != '', setting, name, wanted)
        for key in ('ann_file', 'proposal_file'):
            path = source.config.get(key)
            if isinstance(path, str) and path and source.is_local and source.reads(key):
                if '://' not in path:
                    _check_exists(source.join(path))
    for metric in metrics:
        if metric.is_local and metric.reads_ann_file:
            _check_exists(metric.ann_file)


def _check_classes(
    cfg: Config, sources: list[Source], metrics: list[Metric], found: Findings
) -> None:
    for source in sources:
        if source.is_coco:
            classes = class_names(source)
            if classes is not None:
                found.classes[source.setting] = classes
        elif source.takes_metainfo:
            check_no_text(source)
    known = [
        source
        for source in sources
        if source.parses_as_coco
        and source.setting in found.classes
        and not source.config.get('return_classes')
    ]
    others = {metric.split for metric in metrics if not metric.of_proposals}
    of_proposals = {metric.split for metric in metrics} - others
    for source in known:
        check_heads(cfg, source, found.classes[source.setting], source.split in of_proposals)
    same = [x for x in known if x.split not in of_proposals and has_classes(cfg)]
    for source in same[1:]:
        check_same_classes(same[0], source, found.classes)


def _check_source(file: CocoFile, source: Source, pictures: bool, found: Findings) -> None:
    if not source.parses_as_coco:
        return
    classes = found.classes.get(source.setting)
    unlabeled = source.split == 'train' and not len(file.annotations)
    if classes is None or unlabeled:
        ids = file.category_ids(classes)
    else:
        ids = categories_in_use(file, source, classes)
    objects = Objects(file, source, ids)
    if not objects.kept.any():
        found.empty[source.setting] = nothing_left(file, source)
    if not len(objects.images):
        if source.split == 'train' and not objects.of_class.any():
            raise SettingError(found.empty[source.setting])
        raise SettingError(
            f'{source.setting} has 0 images of the {len(file.images)} in ann_file={file.path}. '
            'Must have at least 1: look at its metainfo.classes, its filter_cfg and its indices.'
        )
    if source.split == 'train':
        found.warnings += objects_left_out(file, source, objects)
    if source.filters_as_coco:
        ids_of = file.images.ids
        found.image_ids[source.setting] = [ids_of[index] for index in objects.images.tolist()]
    if pictures and source.loads_as_coco:
        found.warnings += check_pictures(file, source, objects.images)


def _check_metric(file: CocoFile, metric: Metric, sources: list[Source], found: Findings) -> None:
    ids = file.category_ids(classes_of(sources, found.classes))
    if not (file.listed & file.of_category(ids)).any():
        none = 'has 0 annotations' if not len(file.annotations) else 'has no object of the classes'
        line = f'ann_file={file.path}: {none}, so {metric.setting} computes no AP.'
        if metric.split == 'val':
            raise SettingError(f'{line} Must have at least 1.')
        found.warnings.append(line)
    found.warnings += check_for_metric(file, metric, ids)
    if metric.for_all and sources and all(x.setting in found.image_ids for x in sources):
        read = {key for source in sources for key in found.image_ids[source.setting]}
        found.warnings += images_left_out(file, metric, sources, read, ids)


def _needs_annotations(path: str, sources: list[Source], metrics: list[Metric]) -> bool:
    """Return True if a file must have a list of annotations."""
    train = [source for source in sources if source.split == 'train']
    # Of several files one may have no objects, as in semi-supervised training.
    alone = len(train) == 1 and train[0].ann_file == path
    return alone or any(x.split == 'val' and x.evaluates and x.ann_file == path for x in metrics)


def check_data(
    cfg: Config, splits: Iterable[str], metrics: bool = True, pictures: bool = True
) -> list[str]:
    """Check annotation files, pictures and classes, as MMDetection and pycocotools read them.

    One annotation file is in memory at a time. Files that are not on this machine are not checked,
    nor what a user's own class reads in its own way.

    Args:
        cfg (Config): The config.
        splits (Iterable[str]): Of ``'train'``, ``'val'``, ``'test'``.
        metrics (bool): True if the predictions will be evaluated. Defaults to True.
        pictures (bool): True if pictures will be read. Defaults to True.

    Returns:
        list[str]: Warnings, a line each.

    Raises:
        SettingError: On the first error.
    """
    splits, found = list(splits), Findings()
    sources = [source for split in splits for source in sources_of(cfg, split)]
    measures = [metric for split in splits if metrics for metric in metrics_of(cfg, split)]
    _check_paths(sources, measures)
    if pictures:
        check_decoders(sources)
    _check_classes(cfg, sources, measures, found)
    check_metrics(cfg, measures, sources, found.classes)
    read = [x for x in sources if x.is_coco and x.is_local]
    evaluated = [x for x in measures if x.evaluates and x.is_local]
    compared = _compared(read, evaluated)
    with paused_gc():
        for path in dict.fromkeys([x.ann_file for x in read] + [x.ann_file for x in evaluated]):
            file = CocoFile(path, _needs_annotations(path, read, evaluated))
            for source in read:
                if source.ann_file == path:
                    _check_source(file, source, pictures, found)
            for metric in evaluated:
                if metric.ann_file == path:
                    mine = [source for source in sources if source.split == metric.split]
                    _check_metric(file, metric, mine, found)
            found.contents[path] = Contents.of(file, path in compared)
            del file
    train = [source.setting for source in sources if source.split == 'train']
    if train and all(setting in found.empty for setting in train):
        raise SettingError(found.empty[train[0]])
    _check_evaluation(cfg, evaluated, sources, read, found)
    return list(dict.fromkeys(found.warnings))


def _compared(sources: list[Source], metrics: list[Metric]) -> set[str]:
    """Return the files that must describe the same images as another file."""
    files = set()
    for metric in metrics:
        mine = {source.ann_file for source in sources if source.split == metric.split}
        if mine != {metric.ann_file}:
            files |= {metric.ann_file, *mine}
    return files


def _check_evaluation(
    cfg: Config,
    metrics: list[Metric],
    sources: list[Source],
    read: list[Source],
    found: Findings,
) -> None:
    for metric in metrics:
        mine = [source for source in sources if source.split == metric.split]
        known = all(source in read and source.setting in found.image_ids for source in mine)
        if not mine or not metric.for_all or not known:
            continue
        own = found.contents[metric.ann_file]
        sets = [(found.contents[x.ann_file], found.image_ids[x.setting]) for x in mine]
        check_same_set(metric, own, mine, sets)
        images = sum(len(ids) for _, ids in sets)
        name = f'{metric.split}_dataloader'
        found.warnings += batches_left_out(cfg[name], name, images)
        if mine[0].setting in found.classes:
            check_same_order(metric, own, mine[0], found.classes[mine[0].setting])
