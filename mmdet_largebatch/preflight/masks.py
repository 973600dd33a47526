"""Check the segmentations of objects as MMDetection loads them and as pycocotools reads them."""

from array import array
from collections import deque
from collections.abc import Mapping
from itertools import chain, compress
from typing import Any

import numpy as np

from .coco_file import CocoFile
from .rows import shown

MASK = 'polygons of at least 3 points, as in [[x1, y1, x2, y2, x3, y3]], or an RLE object'
# A coordinate beyond this many pixels, or NaN, makes pycocotools ask for gigabytes of memory.
LIMIT = 1e7
CHUNK = 10_000


def _are_numbers(polygons: list) -> bool:
    """Return True if all are lists of numbers, at the speed of C."""
    numbers = array('d')
    try:
        deque(map(numbers.fromlist, polygons), maxlen=0)
    except (TypeError, OverflowError):
        return False
    return bool((np.abs(np.asarray(numbers)) < LIMIT).all())


def _suspects(masks: list) -> np.ndarray:
    """Return the indices of all masks but lists of plain polygons."""
    plain = np.array([type(mask) is list and mask != [] for mask in masks], dtype=bool)
    lists = list(compress(masks, plain))
    polygons = list(chain.from_iterable(lists))
    lengths = np.array([len(x) if type(x) is list else 0 for x in polygons], dtype=np.int64)
    good = (lengths >= 6) & (lengths % 2 == 0)
    for start in range(0, len(polygons), CHUNK):
        chunk = slice(start, start + CHUNK)
        if not _are_numbers(polygons[chunk]):
            good[chunk] &= [_are_numbers([polygon]) for polygon in polygons[chunk]]
    owner = np.repeat(np.flatnonzero(plain), list(map(len, lists)))
    plain[owner[~good]] = False
    return np.flatnonzero(~plain)


def _is_polygon(polygon: Any) -> bool:
    """Return True if pycocotools can draw a polygon; an odd number at the end is left out."""
    try:
        numbers = np.array(polygon, dtype=float)
    except (TypeError, ValueError, OverflowError):
        return False
    return numbers.ndim == 1 and bool((np.abs(numbers) < LIMIT).all())


def _rle_defect(rle: Mapping, size: tuple) -> str | None:
    """Return the defect of an RLE object with ``counts`` and ``size``."""
    if not isinstance(rle['size'], list) or tuple(rle['size']) != size:
        return f'has an RLE segmentation of size {rle["size"]}, its image is {list(size)}'
    if isinstance(rle['counts'], list):
        try:
            total = int(np.array(rle['counts'], dtype=np.uint32).sum())
        except (TypeError, ValueError, OverflowError):
            return f'has an RLE segmentation with counts={shown(rle["counts"])}'
        if total != size[0] * size[1]:
            return f'has an RLE segmentation of {total} pixels, its image is {list(size)}'
    return None


def _loaded(mask: Any, size: tuple, poly2mask: bool) -> tuple[str, bool] | None:
    """Return the defect of a segmentation for ``LoadAnnotations``.

    Args:
        mask (Any): The segmentation.
        size (tuple): Height and width of its image in pixels.
        poly2mask (bool): False if all but polygons are dropped.

    Returns:
        tuple[str, bool], optional: The defect, and True if the object is dropped without an error.
    """
    plain = f'has segmentation={shown(mask)}'
    if not mask:
        return plain, False
    if isinstance(mask, list):
        if not all(isinstance(x, (list, str, Mapping)) for x in mask):
            return plain, False
        used = [x for x in mask if len(x) % 2 == 0 and len(x) >= 6]
        return None if used and all(map(_is_polygon, used)) else (plain, not used)
    if not poly2mask:
        return 'has an RLE segmentation, which poly2mask=False drops', True
    if not isinstance(mask, Mapping):
        return plain, False
    if mask.get('size') is None or not isinstance(mask.get('counts'), (list, str)):
        return 'has an RLE segmentation without counts or size', True
    defect = _rle_defect(mask, size)
    return None if defect is None else (defect, False)


def _evaluated(mask: Any, size: tuple) -> tuple[str, bool] | None:
    """Return the defect of a segmentation for pycocotools, which drops none.

    Of several polygons, pycocotools judges the list by the first.
    """
    defect: str | None = f'has segmentation={shown(mask)}'
    if isinstance(mask, Mapping) and mask:
        if isinstance(mask.get('counts'), (list, str)) and mask.get('size') is not None:
            defect = _rle_defect(mask, size)
        else:
            defect = 'has an RLE segmentation without counts or size'
    elif isinstance(mask, list) and mask and isinstance(mask[0], list) and len(mask[0]) > 4:
        defect = None if all(map(_is_polygon, mask)) else defect
    return None if defect is None else (defect, False)


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
    bad = {}
    for index in _suspects(masks):
        if not wanted[index]:
            continue
        image = file.images.rows[file.image_index[index]]
        size = (image.get('height'), image.get('width'))
        if loader is None:
            found = _evaluated(masks[index], size)
        else:
            found = _loaded(masks[index], size, loader.get('poly2mask', True))
        if found and found[1]:
            dropped[index] = True
        elif found:
            bad[index] = found[0]
    if bad:
        wrong = np.isin(np.arange(len(rows)), list(bad))
        rows.refuse(wrong, next(iter(bad.values())), right)
    return dropped
