"""Look at the data and at what the config says of it, before anything is built."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from mmengine.config import Config

from ..errors import SettingError
from .classes import categories_in_use, check_heads, check_same_classes, class_names, predicts_masks
from .coco_file import CocoFile, paused_gc
from .evaluators import Contents, check_same_order, check_same_set
from .objects import Objects, check_for_metric, nothing_left, objects_left_out
from .pictures import check_pictures
from .sources import Metric, Source, metrics_of, sources_of


@dataclass
class Findings:
    """Findings of the checks so far.

    Attributes:
        warnings (list[str]): What the user should know.
        classes (dict): Class names of each data set, by its setting.
        contents (dict): Contents of each file, by its path.
        image_ids (dict): Ids of the images that each data set reads, by its setting.
        empty (dict): The line for each data set without objects to train on, by its setting.
    """

    warnings: list[str] = field(default_factory=list)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    contents: dict[str, Contents] = field(default_factory=dict)
    image_ids: dict[str, list] = field(default_factory=dict)
    empty: dict[str, str] = field(default_factory=dict)


def _check_is_there(path: str) -> None:
    if not os.path.exists(path):
        raise SettingError(
            f'ann_file={path}: no such annotation file. Put the data there, or set data_root '
            'and ann_file; the shapes are written by `python tools/make_shapes.py`.'
        )


def _check_paths(sources: list[Source], metrics: list[Metric]) -> None:
    """Refuse files that are not there, whatever reads them."""
    for source in sources:
        if source.is_coco and not isinstance(source.config.get('ann_file'), str):
            raise SettingError(
                f'{source.setting}.ann_file={source.config.get("ann_file")}: must be one file. '
                'Several are joined by a ConcatDataset with a data set for each.'
            )
        if source.is_coco and not source.config.get('ann_file'):
            raise SettingError(f'{source.setting}.ann_file is not set. Must be a COCO file.')
        for key in ('ann_file', 'proposal_file'):
            path = source.config.get(key)
            if isinstance(path, str) and path and source.is_local and '://' not in path:
                _check_is_there(source.join(path))
    for metric in metrics:
        if metric.is_local and isinstance(metric.ann_file, str):
            _check_is_there(metric.ann_file)


def _check_config(
    cfg: Config, sources: list[Source], metrics: list[Metric], found: Findings
) -> None:
    """Check what can be known without opening a file."""
    for source in sources:
        if source.is_coco:
            classes = class_names(source)
            if classes is not None:
                check_heads(cfg, source, classes)
                found.classes[source.setting] = classes
    known = [
        source
        for source in sources
        if source.setting in found.classes and not source.config.get('return_classes')
    ]
    for source in known[1:]:
        check_same_classes(known[0], source, found.classes)
    for metric in metrics:
        if metric.evaluates and 'segm' in metric.names and not predicts_masks(cfg):
            raise SettingError(
                f"{metric.setting}.metric={metric.config.get('metric')}: 'segm' needs masks, and "
                "the model predicts none. Must be 'bbox'."
            )


def _check_source(file: CocoFile, source: Source, pictures: bool, found: Findings) -> None:
    classes = found.classes.get(source.setting)
    ids = set(file.categories.ids)
    if classes is not None:
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
    found.image_ids[source.setting] = [file.images.ids[index] for index in objects.images.tolist()]
    if pictures and source.parses_as_coco:
        check_pictures(file, source, objects.images)


def _check_metric(file: CocoFile, metric: Metric, sources: list[Source], found: Findings) -> None:
    classes = next((found.classes[x.setting] for x in sources if x.setting in found.classes), None)
    pairs = zip(file.categories.ids, file.names, strict=True)
    ids = {key for key, name in pairs if classes is None or name in classes}
    if not len(file.annotations):
        line = f'ann_file={file.path}: has 0 annotations, so {metric.setting} computes no AP.'
        if metric.split == 'val':
            raise SettingError(f'{line} Must have at least 1.')
        found.warnings.append(line)
    found.warnings += check_for_metric(file, metric, ids)


def _needs_annotations(path: str, sources: list[Source], metrics: list[Metric]) -> bool:
    """Return True if a file must have a list of annotations."""
    train = [source for source in sources if source.split == 'train']
    # Of several a file without objects may be wanted, as in semi-supervised training.
    alone = len(train) == 1 and train[0].ann_file == path
    return alone or any(x.split == 'val' and x.evaluates and x.ann_file == path for x in metrics)


def check_data(
    cfg: Config, splits: Iterable[str], metrics: bool = True, pictures: bool = True
) -> list[str]:
    """Check annotation files, pictures and classes against what will read them.

    Annotation files are read as pycocotools reads them, one at a time. Files of other data sets
    than :class:`CocoDataset`, and files that are not on this machine, are left to what reads them.

    Args:
        cfg (Config): The config.
        splits (Iterable[str]): Of ``'train'``, ``'val'``, ``'test'``.
        metrics (bool): Whether the predictions will be evaluated. Defaults to True.
        pictures (bool): Whether pictures will be read. Defaults to True.

    Returns:
        list[str]: What the user should know: a line each.

    Raises:
        SettingError: If anything is wrong, with one line that says what would be right.
    """
    splits, found = list(splits), Findings()
    sources = [source for split in splits for source in sources_of(cfg, split)]
    measures = [metric for split in splits if metrics for metric in metrics_of(cfg, split)]
    _check_paths(sources, measures)
    _check_config(cfg, sources, measures, found)
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
    _check_train(sources, found)
    _check_evaluation(evaluated, sources, read, found)
    return list(dict.fromkeys(found.warnings))


def _compared(sources: list[Source], metrics: list[Metric]) -> set[str]:
    """Return the files that must describe the same pictures as another one."""
    files = set()
    for metric in metrics:
        mine = {source.ann_file for source in sources if source.split == metric.split}
        if mine != {metric.ann_file}:
            files |= {metric.ann_file, *mine}
    return files


def _check_train(sources: list[Source], found: Findings) -> None:
    train = [source.setting for source in sources if source.split == 'train']
    if train and all(setting in found.empty for setting in train):
        raise SettingError(found.empty[train[0]])


def _check_evaluation(
    metrics: list[Metric], sources: list[Source], read: list[Source], found: Findings
) -> None:
    for metric in metrics:
        mine = [source for source in sources if source.split == metric.split]
        if not mine or not metric.for_all or not all(source in read for source in mine):
            continue
        own = found.contents[metric.ann_file]
        sets = [(found.contents[x.ann_file], found.image_ids[x.setting]) for x in mine]
        check_same_set(metric, own, mine, sets)
        if mine[0].setting in found.classes:
            check_same_order(metric, own, mine[0], found.classes[mine[0].setting])
