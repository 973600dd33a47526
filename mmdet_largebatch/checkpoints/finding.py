"""Find the newest valid checkpoint."""

import os
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile, is_zipfile

from mmengine.runner import find_latest_checkpoint

from .unpickling import UnsafeCheckpoint, load_safely

# Key of a checkpoint's meta: the time of the save in ns since 1970, which a copy of the file keeps.
SAVED_AT = 'saved_at'
# MMEngine's file in a work folder that names the checkpoint saved last.
POINTER = 'last_checkpoint'


class Candidate(NamedTuple):
    """A candidate for the newest checkpoint; -1 updates if it is not one to resume from."""

    saved_at: int
    update: int
    path: str
    defect: str | None


def _look_into(path: str | Path) -> Candidate:
    """Read a checkpoint's meta, without its tensors if the format allows that."""
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
    folders: list[str | Path], pattern: str = '*.pth', since: int = 0
) -> tuple[str | None, list[str]]:
    """Find the newest valid checkpoint.

    Files named ``best_*`` are ignored because they hold no optimizer, and published weights because
    they hold no progress.

    Args:
        folders (list[str or Path]): Folders to search for ``*.pth`` files.
        pattern (str): Further names to search for. Defaults to ``'*.pth'``.
        since (int): Time in ns since 1970. Files saved earlier are ignored. Defaults to 0.

    Returns:
        tuple[str or None, list[str]]: Path of the checkpoint, None if there is none; and a line for
        each newer file that is not valid.
    """
    files = {
        path.resolve(): path
        for folder in folders
        for names in {'*.pth', pattern}
        for path in Path(folder).glob(names)
        if path.is_file() and not path.name.startswith('best_')
    }
    skipped: list[str] = []
    for candidate in sorted(map(_look_into, files.values()), reverse=True):
        if candidate.saved_at < since or (candidate.defect is None and candidate.update < 0):
            continue
        defect = candidate.defect or _damage(candidate.path)
        if defect is None:
            return candidate.path, skipped
        skipped.append(f'{candidate.path}: {defect}')
    return None, skipped


def last_checkpoint(work_dir: str | Path, since: int = 0) -> str | None:
    """Return the checkpoint that MMEngine's file ``last_checkpoint`` names.

    Args:
        work_dir (str or Path): Work folder of the run.
        since (int): Time in ns since 1970. A name written earlier is ignored. Defaults to 0.

    Returns:
        str, optional: Path or address; None if there is no such file.
    """
    pointer = Path(work_dir) / POINTER
    if not pointer.is_file() or pointer.stat().st_mtime_ns < since:
        return None
    return find_latest_checkpoint(str(work_dir))


def remote_checkpoint(work_dir: str | Path, since: int = 0) -> str | None:
    """Return the address that ``last_checkpoint`` holds, if the run last saved to an object store.

    Args:
        work_dir (str or Path): Work folder of the run.
        since (int): Time in ns since 1970. An address written earlier is ignored. Defaults to 0.

    Returns:
        str, optional: Such as ``'s3://bucket/run/epoch_3.pth'``; None for a local checkpoint.
    """
    address = last_checkpoint(work_dir, since)
    return address if address is not None and '://' in address else None
