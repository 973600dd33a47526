"""Check the objects of an annotation file for the data set or the metric that reads them."""

import numpy as np

from .coco_file import CocoFile
from .masks import MASK, check_masks
from .metrics import Metric
from .rows import NUMBERS, listed
from .sources import Source

AREA = "the object's area in pixels"
NO_CATEGORY = 'their category_id is no id of a category'


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
        self.images = self._filtered(file, source, width, height)
        self.maskless = np.zeros(len(rows), dtype=bool)
        if source.mask_loader is not None and source.loads_as_coco:
            why = f'{source.setting}.pipeline loads masks (with_mask=True)'
            loaded = self.kept & np.isin(index, self.images)
            self.maskless = check_masks(file, loaded, why, source.mask_loader)
            self.kept = self.kept & ~self.maskless

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
    lines = []
    ids = _match_numbers(file, wanted)
    zero = np.flatnonzero(wanted & (ids == 0))
    if len(zero):
        lines.append(
            f'ann_file={file.path}: {rows.entry(zero[0])} has the id 0, which pycocotools takes '
            'for "no match": a right detection of this object counts as a wrong one, and AP is too '
            'low. Annotation ids should begin at 1.'
        )
    return lines + _counted(file, file.classless, f'not evaluated by {metric.setting}', NO_CATEGORY)


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


def _counted(file: CocoFile, which: np.ndarray, what: str, why: str) -> list[str]:
    """Return a line that counts objects, none if there are none."""
    where, rows = np.flatnonzero(which), file.annotations
    if not len(where):
        return []
    first = rows.entry(where[0])
    count = f'{len(where)} of {len(rows)} objects are {what}'
    return [f'ann_file={file.path}: {count}, {why} (the first: {first}).']


def objects_left_out(file: CocoFile, source: Source, objects: Objects) -> list[str]:
    """Return a line for each reason why objects are not trained on."""
    lines = []

    def say(which: np.ndarray, why: str) -> None:
        lines.extend(_counted(file, which, 'not trained on', why))

    say(~file.listed, 'their image_id is no id of an image')
    say(file.listed & ~file.ignored & file.classless, NO_CATEGORY)
    say(
        objects.skipped,
        'their box is below 1 pixel or outside the image, or their area is not above 0',
    )
    say(objects.maskless, f'their mask cannot be used, which must be {MASK}')
    other = file.listed & ~file.ignored & ~file.classless & ~objects.of_class
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
