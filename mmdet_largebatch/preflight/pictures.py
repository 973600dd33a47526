"""Check that the pictures of a data set exist."""

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..checks import check, invalid
from ..utils.type_names import type_name
from .coco_file import CocoFile
from .sources import Source, is_local

# Up to this many files that a listing lacks are looked up by name, and the others count as there:
# the listing may be outdated or refused, or the file system may ignore case.
LOOKED_FOR = 1000


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


def check_pictures(file: CocoFile, source: Source, images: np.ndarray) -> None:
    """Refuse a data set if the picture of any of these `images` (indices) is missing."""
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
    maps = [x for x in loaders if type_name(x) == 'LoadAnnotations' and x.get('with_seg')]
    if isinstance(prefixes.get('seg'), str) and maps and all(is_local(x) for x in maps):
        prefix, suffix = source.join(prefixes['seg']), source.config.get('seg_map_suffix', '.png')
        if prefix and '://' not in prefix:
            files = [x.rsplit('.', 1)[0] + suffix for x in names]
            _refuse_missing(f'{setting}.seg', prefix, files)
