"""Check that the pictures of a data set exist, in the sizes that the annotation file gives."""

import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from ..checks import check, invalid
from ..utils.type_names import type_name
from .coco_file import CocoFile
from .rows import listed
from .sources import Source, is_local

# Up to this many files that a listing lacks are looked up by name, and the others count as there:
# the listing may be outdated or refused, or the file system may ignore case.
LOOKED_FOR = 1000
# The size is read from the header of this many pictures of each data set.
HEADERS = 200
ORIENTATION = 0x0112  # of EXIF; 5 to 8 swap width and height
# The module of each of MMCV's decoders.
DECODERS = dict(cv2='cv2', pillow='PIL', turbojpeg='turbojpeg', tifffile='tifffile')


def _missing(prefix: str, paths: Iterable[str]) -> tuple[list[str], bool]:
    """Find the paths without a file, from one listing of each folder below `prefix`.

    Returns:
        tuple[list[str], bool]: The missing paths, and False if there may be more.
    """
    folders = defaultdict(list)
    for path in paths:
        folder, slash, name = path.rpartition('/')
        folders[folder + slash].append(name)
    missing = []
    for folder, names in folders.items():
        folder = os.path.join(prefix, folder)
        try:
            with os.scandir(folder or '.') as entries:
                there = {x.name for x in entries if not x.is_symlink() or os.path.exists(x.path)}
        except OSError:
            there = set()
        missing += [os.path.join(folder, name) for name in names if name not in there]
    looked_for = missing[:LOOKED_FOR]
    return [x for x in looked_for if not os.path.exists(x)], len(looked_for) == len(missing)


def _refuse_missing(setting: str, prefix: str, paths: list[str]) -> None:
    missing, all_of_them = _missing(prefix, paths)
    if not missing:
        return
    wanted = 'the folder in which file_name of the annotation file begins'
    is_folder = not prefix or os.path.isdir(prefix)
    check(is_folder, setting, prefix, f'{wanted} (data_root and data_prefix are joined)')
    number = f'{"" if all_of_them else "at least "}{len(missing)}'
    more = f'{number} of {len(paths)} files are missing'
    raise invalid(setting, prefix, f'{wanted}: {missing[0]} is not there; {more}')


def _sizes(path: str, turns: bool) -> list[tuple[int, int]]:
    """Return the sizes in which a picture may be loaded, none if Pillow cannot read it.

    Args:
        path (str): The picture.
        turns (bool): True if its loader turns pictures by their EXIF orientation.
    """
    try:
        with Image.open(path) as picture:
            size = picture.size
            if not turns:
                return [size]
            if picture.format not in ('JPEG', 'MPO'):  # Their EXIF data may follow the pixels.
                return [size, size[::-1]]
            turned = picture.getexif().get(ORIENTATION) in (5, 6, 7, 8)
            return [size[::-1] if turned else size]
    except Exception:  # Its loader reports it, unless it is another kind of reader.
        return []


def _other_sizes(
    file: CocoFile, source: Source, loader: Mapping, paths: list[str], images: np.ndarray
) -> list[str]:
    """Return a line if pictures have another size than their entries in the annotation file."""
    chosen = np.unique(np.linspace(0, len(images) - 1, HEADERS).astype(int))
    flag = loader.get('color_type', 'color')
    turns = flag in ('color', 'grayscale') and loader.get('imdecode_backend') in (
        *(None, 'cv2', 'pillow'),
    )
    with ThreadPoolExecutor(8) as pool, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        read = list(pool.map(partial(_sizes, turns=turns), [paths[index] for index in chosen]))
    width, height = file.sizes()
    said = [(width[index], height[index]) for index in images[chosen]]
    other = [i for i, sizes in enumerate(read) if sizes and said[i] not in sizes]
    if not other:
        return []
    first = other[0]
    (across, down), (wide, high) = read[first][0], said[first]
    return [
        f'{source.setting}: {paths[chosen[first]]} is loaded with {across} x {down} pixels, and '
        f'has {wide:g} x {high:g} in ann_file={file.path} ({len(other)} of {len(read)} pictures '
        'like this). Boxes and masks must be in pixels of the loaded picture, which is turned by '
        'its EXIF orientation unless color_type ignores it.'
    ]


def check_decoders(sources: Iterable[Source]) -> None:
    """Refuse a decoder whose package is not installed.

    MMCV asks for it at the first picture, and fails on that as on a broken one.

    Args:
        sources (Iterable[Source]): The data sets.

    Raises:
        SettingError: If ``imdecode_backend`` of a transform is such a decoder, or unknown.
    """
    installed = [name for name, module in DECODERS.items() if find_spec(module)]
    wanted = f'one of {listed(installed)}; others of MMCV need their package installed'
    for source in sources:
        for transform in source.transforms:
            name = transform.get('imdecode_backend')
            ok = name is None or name in installed
            check(ok, f'{type_name(transform)}.imdecode_backend', name, wanted)


def check_pictures(file: CocoFile, source: Source, images: np.ndarray) -> list[str]:
    """Check the pictures of a data set.

    Args:
        file (CocoFile): Its annotation file.
        source (Source): The data set.
        images (np.ndarray): Indices of the images that it reads.

    Returns:
        list[str]: Warnings.

    Raises:
        SettingError: If a picture is missing.
    """
    lines = []
    right = 'the path of the picture in its folder'
    names = file.images.values('file_name', right)
    if set(map(type, names)) - {str}:
        file.images.refuse([type(x) is not str for x in names], 'has no text as file_name', right)
    given: Any = source.config.get('data_prefix')
    setting = f'{source.setting}.data_prefix'
    prefixes = given if hasattr(given, 'get') else {}
    wanted = "a dict with img, the folder of the pictures, as in dict(img='train/')"
    check(isinstance(prefixes.get('img'), str), setting, given, wanted)
    names = [names[index] for index in images]
    loaders = [x for x in source.transforms if type_name(x).startswith('Load')]
    reads = [x for x in loaders if type_name(x) in ('LoadImageFromFile', 'LoadImageOnce')]
    if reads and all(is_local(x) and not x.get('ignore_empty') for x in reads):
        prefix = source.join(prefixes['img'])
        if '://' not in prefix:
            _refuse_missing(f'{setting}.img', prefix, names)
            paths = [os.path.join(prefix, name) for name in names]
            lines += _other_sizes(file, source, reads[0], paths, images)
    maps = [x for x in loaders if type_name(x) == 'LoadAnnotations' and x.get('with_seg')]
    if isinstance(prefixes.get('seg'), str) and maps and all(is_local(x) for x in maps):
        prefix, suffix = source.join(prefixes['seg']), source.config.get('seg_map_suffix', '.png')
        if prefix and '://' not in prefix:
            files = [x.rsplit('.', 1)[0] + suffix for x in names]
            _refuse_missing(f'{setting}.seg', prefix, files)
    return lines
