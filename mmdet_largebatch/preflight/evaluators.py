"""Check that a metric's own annotation file describes the pictures that are evaluated."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checks import invalid
from .coco_file import CocoFile
from .metrics import Metric
from .rows import listed, shown
from .sources import Source


@dataclass
class Contents:
    """Contents of an annotation file.

    Attributes:
        path (str): The file.
        pictures (dict): Name of the picture without folder and ending, by image id.
        objects (frozenset): Image and box of each object with a box.
        names (list[str]): Names of the categories.
    """

    path: str
    pictures: dict
    objects: frozenset
    names: list[str]

    @classmethod
    def of(cls, file: CocoFile, compared: bool) -> 'Contents':
        """Copy the contents of a file, so that its memory can be freed.

        Of a file that is not to be `compared` with another, copy the categories alone.
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
    """Refuse a metric whose annotation file describes another set of images.

    Args:
        metric (Metric): The metric.
        own (Contents): Contents of its file.
        sources (list[Source]): The evaluated data sets.
        sets (list[tuple]): For each data set, the :class:`Contents` of its file and the ids of the
            images that it reads.

    Raises:
        SettingError: If the sets differ.
    """
    if all(os.path.realpath(one.path) == os.path.realpath(own.path) for one, _ in sets):
        return
    defect = _difference(own, sources, sets)
    if defect:
        wanted = f'{sets[0][0].path}, the file of {sources[0].setting}: it describes another set'
        raise invalid(f'{metric.setting}.ann_file', own.path, f'{wanted}, {defect}')


def _difference(own: Contents, sources: list[Source], sets: list) -> str | None:
    """Return how a file differs from the evaluated sets; None if it describes them."""
    read = {}
    for source, (contents, ids) in zip(sources, sets, strict=True):
        here = {key: contents.pictures[key] for key in ids}
        read.update(here)
        lacks = [key for key in here if key not in own.pictures]
        if lacks:
            return (
                f'without {len(lacks)} of the {len(here)} images of {source.setting}, the first '
                f'with id {shown(lacks[0])}'
            )
        other = [key for key, name in here.items() if own.pictures[key] != name]
        if 2 * len(other) > len(here):
            return (
                f'where the image of id {shown(other[0])} is {own.pictures[other[0]]}, and '
                f'{here[other[0]]} in {source.setting}'
            )
    more = [key for key in own.pictures if key not in read]
    if more and not any(source.config.get('indices') is not None for source in sources):
        return (
            f'with {len(more)} of its {len(own.pictures)} images not evaluated, the first with id '
            f'{shown(more[0])}, which would count as missed'
        )
    objects = frozenset().union(*(contents.objects for contents, _ in sets))
    if objects and own.objects and not objects & own.objects:
        return 'where not one box agrees'
    return None


def images_left_out(
    file: CocoFile, metric: Metric, sources: list[Source], read: set, category_ids: set
) -> list[str]:
    """Return a line if data sets do not read each image of the metric's file.

    A metric evaluates all images of its file, whatever is read.

    Args:
        file (CocoFile): The metric's file.
        metric (Metric): The metric.
        sources (list[Source]): The evaluated data sets.
        read (set): Ids of the images that they read.
        category_ids (set): Ids of the evaluated categories.

    Returns:
        list[str]: The line, if any.
    """
    left = np.array([key not in read for key in file.images.ids])
    evaluated = file.image_index[file.listed & file.of_category(category_ids)]
    missed = np.count_nonzero(left[np.unique(evaluated)])
    if not left.any():
        return []
    filtered = any(x.config.get('filter_cfg') and not x.config.get('test_mode') for x in sources)
    tip = (
        'Set test_mode=True there'
        if filtered
        else 'The file should list the evaluated images alone'
    )
    effect = (
        f'the objects of {missed} of them count as missed'
        if missed
        else 'false detections on images without objects do not count'
    )
    return [
        f'{sources[0].setting} leaves out {np.count_nonzero(left)} of the {len(left)} images of '
        f'{metric.setting}.ann_file={file.path}: {effect}. {tip}.'
    ]


def batches_left_out(loader: Any, setting: str, images: int) -> list[str]:
    """Return a line for each setting of a data loader that leaves out images of an evaluation.

    Args:
        loader (dict): The config of the loader.
        setting (str): Its place in the config.
        images (int): Number of images of its data sets.
    """
    batch, lines = loader.get('batch_size'), []
    if not isinstance(batch, int):
        return []
    missed = 'whose objects count as missed'
    batches = loader.get('num_batch_per_epoch')
    if isinstance(batches, int) and batches * batch < images:
        lines.append(
            f'{setting}.num_batch_per_epoch={batches} evaluates {batches * batch} of {images} '
            f'images on one rank and leaves out the others, {missed}.'
        )
    if loader.get('drop_last') and batch > 1:
        lines.append(
            f'{setting}.drop_last=True may leave out up to {batch - 1} images on each rank, '
            f'{missed}. Set it to False.'
        )
    return lines


def check_same_order(metric: Metric, own: Contents, source: Source, classes: tuple) -> None:
    """Refuse a metric whose file has the classes of a data set in another order.

    Predictions would be compared with other classes.
    """
    names = [name for name in own.names if name in set(classes)]
    if tuple(names) != tuple(classes):
        wanted = (
            f'a file with the classes of {source.setting} in their order, ({listed(classes)}); it '
            f'has ({listed(names)})'
        )
        raise invalid(f'{metric.setting}.ann_file', own.path, wanted)
