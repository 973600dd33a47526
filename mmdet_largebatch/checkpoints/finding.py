"""Find the newest valid checkpoint."""

import os
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile, is_zipfile

from .unpickling import UnsafeCheckpoint, load_safely

# Key of a checkpoint's meta: when it was saved, in ns since 1970. A copy of the file keeps it.
SAVED_AT = 'saved_at'


class Candidate(NamedTuple):
    """A candidate for the newest checkpoint."""

    saved_at: int
    update: int
    path: str
    defect: str | None


def _look_into(path: str | Path) -> Candidate:
    """Read a checkpoint's meta, without its tensors where the format lets it."""
    path = str(path)
    saved_at = os.stat(path).st_mtime_ns
    if os.path.getsize(path) == 0:
        return Candidate(saved_at, -1, path, 'it is empty')
    try:
        lazily = is_zipfile(path)
        content = load_safely(path, map_location='cpu', mmap=lazily)
    except UnsafeCheckpoint as error:
        return Candidate(saved_at, -1, path, error.defect)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip('.')
        return Candidate(saved_at, -1, path, f'it cannot be read ({reason})')
    if not isinstance(content, dict) or 'state_dict' not in content:
        return Candidate(saved_at, -1, path, 'it has no state_dict')
    meta = content.get('meta', {})
    update = meta.get('iter', -1) if 'message_hub' in content else -1
    return Candidate(meta.get(SAVED_AT, saved_at), update, path, None)


def _damage(path: str) -> str | None:
    """Verify the checksums of a checkpoint, and describe its damage.

    PyTorch writes a checksum of every tensor and reads none; a flipped bit loads as a weight.
    """
    if not is_zipfile(path):
        return None
    try:
        with ZipFile(path) as file:
            part = file.testzip()
    except Exception as error:
        return f'it is damaged ({error})'
    return part and f'its part {part} is damaged: the checksum is another'


def checkpoint_defect(path: str | Path) -> str | None:
    """Return the defect of a checkpoint file.

    Args:
        path (str or Path): A file on a local file system.

    Returns:
        str, optional: Such as ``'it is empty'``; None for a whole one.
    """
    return _look_into(path).defect or _damage(str(path))


def newest_checkpoint(
    folders: list[str | Path], pattern: str = '*.pth'
) -> tuple[str | None, list[str]]:
    """Find the newest valid checkpoint.

    Files named ``best_*`` are left out: they hold no optimizer. So are those without a training's
    progress in them, such as published weights.

    Args:
        folders (list[str or Path]): Where to look for ``*.pth`` files.
        pattern (str): Further names to look for. Defaults to ``'*.pth'``.

    Returns:
        tuple[str or None, list[str]]: Its path, None where there is none; and a line for each file
        newer than that which was passed over.
    """
    files = {
        path.resolve(): path
        for folder in folders
        for names in {'*.pth', pattern}
        for path in Path(folder).glob(names)
        if path.is_file() and not path.name.startswith('best_')
    }
    passed_over: list[str] = []
    for candidate in sorted(map(_look_into, files.values()), reverse=True):
        if candidate.defect is None and candidate.update < 0:
            continue
        defect = candidate.defect or _damage(candidate.path)
        if defect is None:
            return candidate.path, passed_over
        passed_over.append(f'{candidate.path}: {defect}')
    return None, passed_over
