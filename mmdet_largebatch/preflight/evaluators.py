"""Check that a metric's own annotation file describes the pictures that are evaluated."""

import os
from dataclasses import dataclass

import numpy as np

from ..errors import SettingError
from .coco_file import CocoFile, listed, shown
from .sources import Metric, Source


@dataclass
class Contents:
    """Contents of an annotation file.

    Attributes:
        path (str): The file.
        pictures (dict): The picture's name without folder and ending, by the image's id.
        objects (frozenset): Image and box of each object that has a box.
        names (list[str]): Names of the categories.
    """

    path: str
    pictures: dict
    objects: frozenset
    names: list[str]

    @classmethod
    def of(cls, file: CocoFile, compared: bool) -> 'Contents':
        """Note the contents of a file, so that the file itself can go.

        Args:
            file (CocoFile): The file.
            compared (bool): Whether it will be compared with another file.

        Returns:
            Contents: Its contents; the categories alone where it is not compared.
        """
        if not compared:
            return cls(file.path, {}, frozenset(), file.names)
        images = zip(file.images.ids, file.images.rows, strict=True)
        pictures = {
            key: os.path.splitext(os.path.basename(str(row.get('file_name'))))[0]
            for key, row in images
        }
        boxes = file.boxes(np.zeros(len(file.annotations), dtype=bool)).round().tolist()
        objects = frozenset(
            (image, *box) for image, box in zip(file.image_of, boxes, strict=True) if any(box)
        )
        return cls(file.path, pictures, objects, file.names)


def check_same_set(metric: Metric, own: Contents, sources: list[Source], sets: list) -> None:
    """Refuse a metric whose file describes another set than the one that is evaluated.

    Args:
        metric (Metric): The metric.
        own (Contents): Its file's.
        sources (list[Source]): The data sets that are evaluated.
        sets (list[tuple]): Of each data set, the :class:`Contents` of its file and the ids of the
            images that it reads.

    Raises:
        SettingError: If it does.
    """
    if all(os.path.realpath(one.path) == os.path.realpath(own.path) for one, _ in sets):
        return
    start = f'{metric.setting}.ann_file={own.path}: describes another set than'
    right = f'Must be {sets[0][0].path}, the file of {sources[0].setting}.'
    read = {}
    for source, (contents, ids) in zip(sources, sets, strict=True):
        what = f'{source.setting}, whose ann_file is {contents.path}'
        here = {key: contents.pictures[key] for key in ids}
        read.update(here)
        lacks = [key for key in here if key not in own.pictures]
        if lacks:
            raise SettingError(
                f'{start} {what}: it lacks {len(lacks)} of {len(here)} images, the first with id '
                f'{shown(lacks[0])}. {right}'
            )
        other = [key for key, name in here.items() if own.pictures[key] != name]
        if 2 * len(other) > len(here):
            raise SettingError(
                f'{start} {what}: the image of id {shown(other[0])} is '
                f'{own.pictures[other[0]]} there and {here[other[0]]} here. {right}'
            )
    more = [key for key in own.pictures if key not in read]
    if more and not any(source.config.get('indices') is not None for source in sources):
        raise SettingError(
            f'{start} {sources[0].setting}: {len(more)} of its {len(own.pictures)} images are not '
            f'evaluated, the first with id {shown(more[0])}, and would count as missed. {right}'
        )
    objects = frozenset().union(*(contents.objects for contents, _ in sets))
    if objects and own.objects and not objects & own.objects:
        raise SettingError(f'{start} {sources[0].setting}: not one box agrees. {right}')


def check_same_order(metric: Metric, own: Contents, source: Source, classes: tuple) -> None:
    """Refuse a metric whose file has the classes in another order.

    Args:
        metric (Metric): The metric.
        own (Contents): Its file's.
        source (Source): The data set that is evaluated.
        classes (tuple[str, ...]): Its class names, in its own file's order.

    Raises:
        SettingError: If it has, so that predictions would be compared with other classes.
    """
    names = [name for name in own.names if name in set(classes)]
    if tuple(names) != tuple(classes):
        raise SettingError(
            f'{metric.setting}.ann_file={own.path}: has the classes ({listed(names)}), but '
            f'{source.setting} has ({listed(classes)}). Must be the same in the same order.'
        )
