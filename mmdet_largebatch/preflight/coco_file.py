"""Read an annotation file in COCO's format, and refuse what its readers cannot read."""

import codecs
import json
from array import array
from collections import deque
from collections.abc import Collection
from functools import cached_property
from itertools import repeat
from operator import contains
from typing import Any

import numpy as np

from ..errors import SettingError
from .rows import NUMBERS, Rows

LISTS = ('images', 'annotations', 'categories')


def _parse(path: str) -> Any:
    """Parse a file exactly as pycocotools does."""
    try:
        with open(path) as file:
            return json.load(file)
    except OSError as error:
        raise SettingError(f'ann_file={path}: not readable ({error.strerror}).') from error
    except (ValueError, RecursionError) as error:
        with open(path, 'rb') as file:
            begin = file.read(4)
        marks = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        if begin.startswith(marks):
            raise SettingError(
                f'ann_file={path}: begins with a byte-order mark, which pycocotools does not read. '
                'Must be UTF-8 without one (in an editor: save as "UTF-8", not "UTF-8 with BOM").'
            ) from error
        line = (str(error).splitlines() or [''])[0]
        raise SettingError(
            f"ann_file={path}: not readable as JSON ({line}). Must be a JSON file in COCO's format."
        ) from error


class CocoFile:
    """An annotation file in COCO's format, its three lists by columns.

    Args:
        path (str): The file.
        need_annotations (bool): True if its readers need a list of annotations.

    Raises:
        SettingError: If pycocotools cannot read or index the file.
    """

    def __init__(self, path: str, need_annotations: bool = True) -> None:
        content = _parse(path)
        known = content if isinstance(content, dict) else {}
        if not need_annotations and isinstance(content, dict):
            known = {'annotations': [], **known}
        missing = [name for name in LISTS if not isinstance(known.get(name), list)]
        if missing:
            raise SettingError(
                f"ann_file={path}: not in COCO's format, it has no list of {', '.join(missing)}. "
                'Must be an object with the lists images, annotations and categories.'
            )
        self.path = path
        self.images, self.annotations, self.categories = (
            Rows(path, name, known[name]) for name in LISTS
        )
        labeled = need_annotations or len(self.annotations)
        for rows in (self.images, self.categories) if labeled else (self.images,):
            if not len(rows):
                raise SettingError(f'ann_file={path}: has 0 {rows.name}. Must have at least 1.')
        self.names = self.categories.values('name', "the class's name")
        rows = self.annotations
        # pycocotools indexes by these.
        self.categories.ids, self.images.ids, rows.ids  # noqa: B018
        self.image_of = rows.keys('image_id')
        self.category_of = rows.keys('category_id')

    @cached_property
    def image_index(self) -> np.ndarray:
        """np.ndarray: Index of each annotation's image, -1 if the file has no such image."""
        ids = self.images.ids
        if isinstance(ids, array) and isinstance(self.image_of, array):
            return _positions(np.asarray(ids), np.asarray(self.image_of))
        index = dict(zip(ids, range(len(ids)), strict=True))
        found = map(index.get, self.image_of, repeat(-1))
        return np.fromiter(found, dtype=np.int64, count=len(self.annotations))

    @cached_property
    def listed(self) -> np.ndarray:
        """np.ndarray: True for annotations whose image is in the file."""
        return self.image_index >= 0

    def category_ids(self, names: Collection[str] | None) -> set:
        """Return the ids of the categories of some names; None for all."""
        pairs = zip(self.categories.ids, self.names, strict=True)
        return {key for key, name in pairs if names is None or name in names}

    def of_category(self, ids: set) -> np.ndarray:
        """Return True for each annotation of some categories."""
        found = map(ids.__contains__, self.category_of)
        return np.fromiter(found, dtype=bool, count=len(self.annotations))

    @cached_property
    def classless(self) -> np.ndarray:
        """np.ndarray: True for annotations whose category is not in the file."""
        return ~self.of_category(set(self.categories.ids))

    @cached_property
    def ignored(self) -> np.ndarray:
        """np.ndarray: True for annotations marked as ignored."""
        rows = self.annotations.rows
        if not any(map(contains, rows, repeat('ignore'))):
            return np.zeros(len(rows), dtype=bool)
        return np.array([bool(row.get('ignore')) for row in rows], dtype=bool)

    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return widths and heights of the images, in pixels.

        Raises:
            SettingError: If an image has none.
        """

        def size(key: str) -> np.ndarray:
            right = f"the picture's {key} in pixels, above 0"
            values = self.images.numbers(key, right)
            self.images.check(key, ~(values > 0), right)
            return values

        return size('width'), size('height')

    def boxes(self, wanted: np.ndarray) -> np.ndarray:
        """Return the boxes.

        Args:
            wanted (np.ndarray): True for annotations that must have one.

        Returns:
            np.ndarray: Left, top, width and height in pixels, shape (annotations, 4); zeros for an
            annotation that may lack a box.

        Raises:
            SettingError: If a wanted one has none, or not four finite numbers.
        """
        right = 'four numbers: left, top, width and height in pixels'
        boxes = self.annotations.values('bbox', right, wanted)
        good = _all_boxes(boxes)
        if good is None:
            sound = np.array([_is_box(box) for box in boxes])
            self.annotations.check('bbox', ~sound & wanted, right)
            boxes = [box if fine else [0] * 4 for box, fine in zip(boxes, sound, strict=True)]
            good = np.array(boxes, dtype=float).reshape(-1, 4)
        return good


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and not set(map(type, box)) - NUMBERS
        and bool(np.isfinite(box).all())
    )


def _all_boxes(boxes: list) -> np.ndarray | None:
    """Return the boxes as an array; None if any is no box."""
    if set(map(type, boxes)) - {list} or set(map(len, boxes)) - {4}:
        return None
    numbers = array('d')
    try:
        deque(map(numbers.fromlist, boxes), maxlen=0)
    except (TypeError, OverflowError):
        return None
    flat = np.asarray(numbers)
    return flat.reshape(-1, 4) if np.isfinite(flat).all() else None


def _positions(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the index of each wanted id among the ids, -1 if it is not there."""
    low, high = int(ids.min()), int(ids.max())
    if high - low < 16 * (len(ids) + len(wanted)):
        table = np.full(high - low + 1, -1)
        table[ids - low] = np.arange(len(ids))
        inside = (wanted >= low) & (wanted <= high)
        return np.where(inside, table[np.where(inside, wanted - low, 0)], -1)
    order = np.argsort(ids)
    at = np.searchsorted(ids, wanted, sorter=order)
    found = order[np.minimum(at, len(ids) - 1)]
    return np.where(ids[found] == wanted, found, -1)
