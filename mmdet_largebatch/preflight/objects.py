"""Check the objects of an annotation file for the data set or the metric that reads them."""

from collections.abc import Mapping
from itertools import chain, compress, repeat
from operator import itemgetter
from typing import Any

import numpy as np

from .coco_file import CocoFile
from .rows import NUMBERS, listed, shown
from .sources import Metric, Source

AREA = "the object's area in pixels"
MASK = 'polygons of at least 3 points, as in [[x1, y1, x2, y2, x3, y3]], or an RLE object'


def _bad_mask(mask: Any, size: tuple, polygons_only: bool) -> tuple[str, bool] | None:
    """Return the defect of one segmentation, as mmdet and pycocotools read it.

    Args:
        mask (Any): The segmentation.
        size (tuple): Height and width of its image in pixels.
        polygons_only (bool): True if RLE objects are dropped.

    Returns:
        tuple[str, bool], optional: The defect, and True if mmdet drops the object without an error.
    """
    if mask and isinstance(mask, Mapping):
        counts, rle_size = mask.get('counts'), mask.get('size')
        if not isinstance(counts, (list, str)) or not isinstance(rle_size, list):
            return 'has an RLE segmentation without counts or size', True
        if polygons_only:
            return 'has an RLE segmentation, which poly2mask=False drops', True
        if tuple(rle_size) != size:
            return f'has an RLE segmentation of size {rle_size}, its image is {list(size)}', False
        return None
    plain = f'has segmentation={shown(mask)}'
    if not mask or not isinstance(mask, list) or not all(isinstance(x, list) for x in mask):
        return plain, False
    if not all(type(x) in NUMBERS for polygon in mask for x in polygon):
        return plain, False
    whole = any(len(polygon) % 2 == 0 and len(polygon) >= 6 for polygon in mask)
    return None if whole else (plain, True)


def _is_polygon(polygon: Any) -> bool:
    sound = type(polygon) is list and len(polygon) >= 6 and len(polygon) % 2 == 0
    return sound and type(polygon[0]) in NUMBERS


def _suspects(masks: list) -> np.ndarray:
    """Return the indices of all masks but plain polygons, at the speed of C if there are none."""
    count = len(masks)
    plain = np.fromiter(map(isinstance, masks, repeat(list)), dtype=bool, count=count)
    plain &= np.fromiter(map(bool, masks), dtype=bool, count=count)
    lists = list(compress(masks, plain))
    polygons = list(chain.from_iterable(lists))
    good = not set(map(type, polygons)) - {list}
    if good:
        lengths = np.fromiter(map(len, polygons), dtype=np.int64, count=len(polygons))
        good = bool(((lengths >= 6) & (lengths % 2 == 0)).all())
    if not good or set(map(type, map(itemgetter(0), polygons))) - NUMBERS:
        plain[plain] = [all(map(_is_polygon, mask)) for mask in lists]
    return np.flatnonzero(~plain)


def check_masks(file: CocoFile, wanted: np.ndarray, why: str, loader: Mapping | None) -> np.ndarray:
    """Check the masks of objects.

    Args:
        file (CocoFile): The file.
        wanted (np.ndarray): True for annotations that must have a mask.
        why (str): The reason, for the message.
        loader (dict, optional): The transform that loads them, in a data set. None for a metric,
            which drops none.

    Returns:
        np.ndarray: True for annotations that mmdet drops for their mask.

    Raises:
        SettingError: If a wanted annotation has no valid mask.
    """
    rows = file.annotations
    right = f'{MASK}; {why}'
    masks = rows.values('segmentation', right, wanted)
    dropped = np.zeros(len(rows), dtype=bool)
    images = file.images.rows
    polygons_only = loader is not None and not loader.get('poly2mask', True)
    bad = {}
    for index in _suspects(masks):
        if not wanted[index]:
            continue
        image = images[file.image_index[index]]
        size = (image.get('height'), image.get('width'))
        found = _bad_mask(masks[index], size, polygons_only)
        if found and found[1] and loader is not None:
            dropped[index] = True
        elif found:
            bad[index] = found[0]
    if bad:
        wrong = np.isin(np.arange(len(rows)), list(bad))
        rows.refuse(wrong, next(iter(bad.values())), right)
    return dropped


class Objects:
    """The objects that a data set takes from its file.

    Attributes:
        of_class (np.ndarray): True for annotations of its classes, in images of the file.
        kept (np.ndarray): True for annotations that reach the model.
        images (np.ndarray): Index of each image that it keeps.
        skipped (np.ndarray): True for objects of its classes that are too small or outside.
        maskless (np.ndarray): True for objects that mmdet drops for their mask.

    Args:
        file (CocoFile): Its file.
        source (Source): The data set.
        category_ids (set): Ids of its classes.

    Raises:
        SettingError: If an image or an object lacks a value that the data set reads.
    """

    def __init__(self, file: CocoFile, source: Source, category_ids: set) -> None:
        rows = file.annotations
        chosen = file.of_category(category_ids)
        self.of_class = file.listed & chosen
        self.kept, self.images = self.of_class, np.arange(len(file.images))
        self.skipped = self.maskless = np.zeros(len(rows), dtype=bool)
        if not source.parses_as_coco:
            return
        width, height = file.sizes()
        read = file.listed & ~file.ignored
        left, top, w, h = file.boxes(read).T
        area = rows.numbers('area', AREA, read)
        index = np.where(file.listed, file.image_index, 0)
        across = np.minimum(left + w, width[index]) - np.maximum(left, 0)
        down = np.minimum(top + h, height[index]) - np.maximum(top, 0)
        seen = (across > 0) & (down > 0) & ~(area <= 0) & (w >= 1) & (h >= 1)
        self.kept = read & chosen & seen
        self.skipped = read & chosen & ~seen
        if source.mask_loader is not None:
            why = f'{source.setting}.pipeline loads masks (with_mask=True)'
            self.maskless = check_masks(file, self.kept, why, source.mask_loader)
            self.kept = self.kept & ~self.maskless
        self.images = self._filtered(file, source, width, height)

    def _filtered(
        self, file: CocoFile, source: Source, width: np.ndarray, height: np.ndarray
    ) -> np.ndarray:
        keep: np.ndarray = np.ones(len(file.images), dtype=bool)
        options = source.config.get('filter_cfg')
        if options is not None and not source.config.get('test_mode') and source.filters_as_coco:
            if options.get('filter_empty_gt', False):
                keep = np.bincount(file.image_index[self.of_class], minlength=len(keep)) > 0
            keep &= np.minimum(width, height) >= options.get('min_size', 0)
        images, indices = np.flatnonzero(keep), source.config.get('indices')
        if isinstance(indices, int):
            return images[:indices] if indices >= 0 else images[indices:]
        if indices is not None:
            return images[[i for i in indices if -len(images) <= i < len(images)]]
        return images


def check_for_metric(file: CocoFile, metric: Metric, category_ids: set) -> list[str]:
    """Check the ground truth of a metric, in categories of these ids. Return warnings."""
    rows, fast_only = file.annotations, set(metric.names) == {'proposal_fast'}
    wanted = file.listed if fast_only else file.listed & file.of_category(category_ids)
    by = f'{metric.setting} (CocoMetric) reads it'
    right = f'0, or 1 for a crowd; {by}'
    crowd = rows.values('iscrowd', right, wanted & ~file.ignored if fast_only else wanted)
    if set(map(type, crowd)) - NUMBERS:
        rows.check('iscrowd', wanted & np.array([type(x) not in NUMBERS for x in crowd]), right)
    file.boxes(wanted)
    if fast_only:
        return []
    area = rows.numbers('area', f'{AREA}; {by}', wanted)
    if not np.isfinite(area[wanted]).all():
        rows.refuse(wanted & ~np.isfinite(area), 'has an area that is not finite', AREA)
    if 'segm' in metric.names:
        width, height = file.sizes()
        wrong = (width % 1 != 0) | (height % 1 != 0)
        if wrong.any():
            file.images.refuse(wrong, 'has a size that is no whole number', 'whole pixels')
        check_masks(file, wanted, f"{metric.setting} computes metric 'segm'", None)
    ids = _match_numbers(file, wanted)
    zero = np.flatnonzero(wanted & (ids == 0))
    if len(zero):
        return [
            f'ann_file={file.path}: {rows.entry(zero[0])} has the id 0, which pycocotools takes '
            'for "no match": a right detection of this object counts as a wrong one, and AP is too '
            'low. Annotation ids should begin at 1.'
        ]
    return []


def _match_numbers(file: CocoFile, wanted: np.ndarray) -> np.ndarray:
    """Return the ids as numbers, by which pycocotools records matches."""
    ids = file.annotations.ids
    if not set(map(type, ids)) - {int}:
        return np.array([key != 0 for key in ids], dtype=float)
    numbers: np.ndarray = np.ones(len(ids))
    for index in np.flatnonzero(wanted):
        try:
            numbers[index] = float(ids[index])
        except (TypeError, ValueError):
            wrong = np.arange(len(ids)) == index
            file.annotations.refuse(wrong, 'has an id that is no number', 'a number above 0')
    return numbers


def objects_left_out(file: CocoFile, source: Source, objects: Objects) -> list[str]:
    """Return a line for each reason why objects are not trained on."""
    lines, rows = [], file.annotations

    def say(which: np.ndarray, why: str) -> None:
        where = np.flatnonzero(which)
        if len(where):
            lines.append(
                f'ann_file={file.path}: {len(where)} of {len(rows)} objects are not trained on, '
                f'{why} (the first: {rows.entry(where[0])}).'
            )

    say(~file.listed, 'their image_id is no id of an image')
    say(
        objects.skipped,
        'their box is below 1 pixel or outside the image, or their area is not above 0',
    )
    say(objects.maskless, f'their mask cannot be used, which must be {MASK}')
    other = file.listed & ~file.ignored & ~objects.of_class
    if other.any():
        names = dict(zip(file.categories.ids, file.names, strict=True))
        dropped = dict.fromkeys(names[file.category_of[i]] for i in np.flatnonzero(other))
        say(
            other,
            f'{source.setting}.metainfo.classes lacks their classes {listed([*dropped])}',
        )
    return lines


def nothing_left(file: CocoFile, source: Source) -> str:
    """Return the line for a data set without objects to train on."""
    return (
        f'ann_file={file.path}: none of its {len(file.annotations)} annotations can be trained on. '
        f'Must have objects of the classes of {source.setting}, of 1 pixel or more, inside of '
        'images that the file lists.'
    )
