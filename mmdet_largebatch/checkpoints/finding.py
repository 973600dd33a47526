"""Find the newest valid checkpoint."""

import os
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple
from zipfile import ZipFile, is_zipfile

from mmengine.runner import find_latest_checkpoint

from .unpickling import UnsafeCheckpoint, load_safely

# Key of a checkpoint's meta: the time of the save in ns since 1970, which a copy of the file keeps.
# Saves by a user's hook have none.
SAVED_AT = 'saved_at'
# MMEngine's file in a work folder that names the checkpoint saved last.
POINTER = 'last_checkpoint'


class Candidate(NamedTuple):
    """A candidate for the newest checkpoint; -1 updates if it is not one to resume from.

    Checkpoints of the checkpoint hook come before other saves, whatever their time.
    """

    is_of_hook: bool
    saved_at: int
    update: int
    path: str
    defect: str | None


def _look_into(path: str | Path, pointer: str | None = None) -> Candidate:
    """Read a checkpoint's meta, without its tensors if the format allows that."""
    path = str(path)
    saved_at = os.stat(path).st_mtime_ns
    if os.path.getsize(path) == 0:
        return Candidate(True, saved_at, -1, path, 'it is empty')
    try:
        lazily = is_zipfile(path)
        content = load_safely(path, map_location='cpu', mmap=lazily)
    except UnsafeCheckpoint as error:
        return Candidate(True, saved_at, -1, path, error.defect)
    except UnpicklingError:
        return Candidate(True, saved_at, -1, path, 'it cannot be read (it is no checkpoint)')
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip('.')
        return Candidate(True, saved_at, -1, path, f'it cannot be read ({reason})')
    if not isinstance(content, dict) or 'state_dict' not in content:
        return Candidate(True, saved_at, -1, path, 'it has no state_dict')
    meta = content.get('meta', {})
    update = meta.get('iter', -1) if 'message_hub' in content else -1
    # The folder may have been copied, and the pointer name the original.
    of_hook = SAVED_AT in meta or os.path.basename(path) == os.path.basename(pointer or '')
    return Candidate(of_hook, _time_of(meta, saved_at), update, path, None)


def _time_of(meta: dict[str, Any], modified: int) -> int:
    """Return the time of a save in ns since 1970, if need be from the file's time."""
    if SAVED_AT in meta:
        return meta[SAVED_AT]
    try:
        second = time.mktime(time.strptime(meta.get('time', ''), '%Y%m%d_%H%M%S'))
    except (TypeError, ValueError, OverflowError):
        return modified
    # MMEngine's time is cut to the second. A copy of the file has a later time.
    begin = int(second) * 10**9
    return min(max(modified, begin), begin + 10**9 - 1)


def _damage(path: str) -> str | None:
    """Verify the checksums of a checkpoint, and describe its damage.

    PyTorch writes a checksum of every tensor and verifies none: a flipped bit loads as a weight.
    """
    if not is_zipfile(path):
        return None
    try:
        with ZipFile(path) as file:
            part = file.testzip()
    except Exception as error:
        return f'it is damaged ({error})'
    return part and f'its part {part} is damaged: the checksum differs'


def checkpoint_defect(path: str | Path) -> str | None:
    """Describe the defect of a checkpoint.

    Args:
        path (str or Path): A file on a local file system.

    Returns:
        str, optional: The defect, such as ``'it is empty'``; None for a valid checkpoint.
    """
    return _look_into(path).defect or _damage(str(path))


def newest_checkpoint(
    folders: list[str | Path], pattern: str = '*.pth', since: int = 0, pointer: str | None = None
) -> tuple[str | None, list[str]]:
    """Find the newest valid checkpoint.

    Files named ``best_*`` are ignored because they hold no optimizer, and published weights because
    they hold no progress. Saves of a user's own hook count only if there are no others.

    Args:
        folders (list[str or Path]): Folders to search for ``*.pth`` files.
        pattern (str): Further names to search for. Defaults to ``'*.pth'``.
        since (int): Time in ns since 1970. Files saved earlier are ignored. Defaults to 0.
        pointer (str, optional): Path of a further file, from :func:`last_checkpoint`. Its folder is
            searched if there is no other checkpoint. Neither is done in a copied folder, which has
            a file of this name. Defaults to None.

    Returns:
        tuple[str or None, list[str]]: Path of the checkpoint, None if there is none; and a line for
        each newer file that is not valid.
    """
    paths = [
        path
        for folder in folders
        for names in {'*.pth', pattern}
        for path in Path(folder).glob(names)
        if not path.name.startswith('best_')
    ]
    skipped: list[str] = []
    twins = [path for path in paths if path.name == os.path.basename(pointer or '')]
    if pointer is not None and not os.path.isfile(pointer) and not twins:
        skipped.append(f'{pointer}: no such file, though {POINTER} names it')
    elif pointer is not None and all(_is_older(path, pointer) for path in twins):
        paths.append(Path(pointer))
    files = {path.resolve(): path for path in paths if path.is_file()}
    candidates = [_look_into(path, pointer) for path in files.values()]
    for candidate in sorted(candidates, reverse=True):
        if candidate.saved_at < since or (candidate.defect is None and candidate.update < 0):
            continue
        defect = candidate.defect or _damage(candidate.path)
        if defect is None:
            return candidate.path, skipped
        skipped.append(f'{candidate.path}: {defect}')
    if pointer is not None and not twins:
        path, more = newest_checkpoint([Path(pointer).parent], pattern, since)
        return path, list(dict.fromkeys(skipped + more))
    return None, skipped


def _is_older(path: Path, pointer: str) -> bool:
    """Return False for a file in a copied folder, whose pointer names the original."""
    return os.path.isfile(pointer) and os.path.getmtime(path) < os.path.getmtime(pointer)


def last_checkpoint(work_dir: str | Path, since: int = 0) -> str | None:
    """Return the checkpoint that MMEngine's file ``last_checkpoint`` names.

    Args:
        work_dir (str or Path): Work folder of the run.
        since (int): Time in ns since 1970. A name written earlier is ignored. Defaults to 0.

    Returns:
        str, optional: Path, or the address of an object store; None if there is no such file.
    """
    pointer = Path(work_dir) / POINTER
    if not pointer.is_file() or pointer.stat().st_mtime_ns < since:
        return None
    return find_latest_checkpoint(str(work_dir)) or None
