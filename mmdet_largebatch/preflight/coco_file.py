"""Read an annotation file in COCO's format, and refuse what its readers cannot read."""

import codecs
import gc
import json
from array import array
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import repeat
from operator import contains, itemgetter
from typing import Any, NoReturn

import numpy as np

from ..errors import SettingError

LISTS = ('images', 'annotations', 'categories')
NUMBERS = {int, float, bool}


@contextmanager
def paused_gc() -> Iterator[None]:
    """Pause garbage collection, which would search millions of new objects for cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Shown(str):
    """Text of a value for a message, its own ``repr``."""

    def __repr__(self) -> str:
        return str(self)


def shown(value: Any) -> Shown:
    """Return a value for a message, cut to 60 characters."""
    text = repr(value)
    return Shown(text if len(text) <= 60 else f'{text[:57]}...')


def listed(values: Sequence) -> Shown:
    """Return the first ten values for a message."""
    text = ', '.join(shown(value) for value in values[:10])
    return Shown(text if len(values) <= 10 else f'{text} and {len(values) - 10} more')


def repeated(values: Iterable) -> Any:
    """Return the first value that stands twice, None if there is none."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


class Rows:
    """The entries of one list of the file, by columns.

    A column is read at the speed of C. Entries are searched one by one only if one is wrong.

    Args:
        path (str): The file.
        name (str): Name of the list.
        rows (list[dict]): Its entries.
    """

    def __init__(self, path: str, name: str, rows: list[dict]) -> None:
        self.path, self.name, self.rows = path, name, rows
        if set(map(type, rows)) - {dict}:
            self.refuse([type(row) is not dict for row in rows], 'is no object of JSON', '{...}')

    def __len__(self) -> int:
        return len(self.rows)

    def entry(self, index: int) -> str:
        """Name an entry for a message."""
        row = self.rows[index]
        known = isinstance(row, dict) and 'id' in row
        return f'{self.name}[{index}]' + (f' (id {shown(row["id"])})' if known else '')

    def refuse(self, wrong: Sequence[bool] | np.ndarray, what: str, right: str) -> NoReturn:
        """Refuse entries.

        Args:
            wrong (Sequence[bool] or np.ndarray): True for each wrong entry.
            what (str): The defect of the first of them.
            right (str): The requirement.

        Raises:
            SettingError: Always.
        """
        where = np.flatnonzero(wrong)
        more = f' ({len(where)} of {len(self)} like this)' if len(where) > 1 else ''
        raise SettingError(
            f'ann_file={self.path}: {self.entry(where[0])} {what}{more}. Must be {right}.'
        )

    def check(self, key: str, wrong: np.ndarray, right: str, why: str = '') -> None:
        """Refuse entries by their value of a key, if any is wrong.

        Args:
            key (str): The key.
            wrong (np.ndarray): True for each wrong entry.
            right (str): The requirement.
            why (str): The defect, if the value does not say it. Defaults to ''.

        Raises:
            SettingError: If any is wrong.
        """
        if np.any(wrong):
            first = self.rows[int(np.flatnonzero(wrong)[0])].get(key)
            self.refuse(wrong, f'has {key}={shown(first)}{why}', right)

    def values(self, key: str, right: str, wanted: np.ndarray | None = None) -> list:
        """Return the value of a key for each entry.

        Args:
            key (str): The key.
            right (str): The requirement, for the message.
            wanted (np.ndarray, optional): True for entries that must have it. Defaults to all.

        Returns:
            list: The values, None for an entry that may lack the key.

        Raises:
            SettingError: If a wanted entry lacks the key.
        """
        try:
            return list(map(itemgetter(key), self.rows))
        except KeyError:
            wrong = _within(wanted, [key not in row for row in self.rows])
            if wrong.any():
                self.refuse(wrong, f'has no {key!r}', f'there: {right}')
            return [row.get(key) for row in self.rows]

    def numbers(self, key: str, right: str, wanted: np.ndarray | None = None) -> np.ndarray:
        """Return a number of each entry. The arguments are those of :meth:`values`.

        Returns:
            np.ndarray: The numbers, NaN for an entry that may lack one.

        Raises:
            SettingError: If a wanted entry has no number.
        """
        try:
            return np.asarray(array('d', map(itemgetter(key), self.rows)))
        except (KeyError, TypeError, OverflowError):
            values = self.values(key, right, wanted)
        other = [type(value) not in NUMBERS for value in values]
        self.check(key, _within(wanted, other), right)
        values = [np.nan if no else value for value, no in zip(values, other, strict=True)]
        return np.array(values, dtype=float)

    def keys(self, key: str) -> Sequence:
        """Return a hashable value of each entry, such as an id.

        Args:
            key (str): The key.

        Returns:
            Sequence: The values, an ``array.array`` if all are integers.

        Raises:
            SettingError: If an entry lacks the key, or its value cannot be hashed.
        """
        try:
            return array('q', map(itemgetter(key), self.rows))
        except (KeyError, TypeError, OverflowError):
            values = self.values(key, 'a whole number')
        wrong = np.array([isinstance(value, (list, dict)) for value in values])
        self.check(key, wrong, 'a whole number')
        return values

    @cached_property
    def ids(self) -> Sequence:
        """The ids.

        Raises:
            SettingError: If an entry has none or two have the same.
        """
        ids = self.keys('id')
        different = len(np.unique(ids) if isinstance(ids, array) else set(ids))
        if different < len(ids):
            twice = repeated(ids)
            at = [f'{self.name}[{index}]' for index, key in enumerate(ids) if key == twice]
            raise SettingError(
                f'ann_file={self.path}: the id {shown(twice)} stands twice in {self.name}, at '
                f'{at[0]} and {at[1]}; {len(ids) - different} of {len(ids)} repeat an id. Must be '
                'a different id for each.'
            )
        return ids


def _within(wanted: np.ndarray | None, wrong: Sequence[bool]) -> np.ndarray:
    return np.array(wrong, dtype=bool) & (True if wanted is None else wanted)


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
        for rows in (self.images, self.categories):
            if not len(rows):
                raise SettingError(f'ann_file={path}: has 0 {rows.name}. Must have at least 1.')
        self.names = self.categories.values('name', "the class's name")
        rows = self.annotations
        # pycocotools indexes by these.
        self.categories.ids, self.images.ids, rows.ids  # noqa: B018
        self.image_of = rows.keys('image_id')
        self.category_of = rows.keys('category_id')
        unknown = set(self.category_of) - set(self.categories.ids)
        if unknown:
            wrong = np.array([category in unknown for category in self.category_of])
            right = f'the id of a category: {listed(self.categories.ids)}'
            rows.check('category_id', wrong, right, ', which no category has')

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
