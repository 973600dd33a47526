"""Write files atomically."""

import errno
import os
import socket
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

# Suffix of a temporary file: `.epoch_3.pth.HOST.PID.partial` beside `epoch_3.pth`.
PARTIAL = '.partial'
# Errors of file systems that sync no folders: encrypted ones, and CIFS of older kernels.
CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


@register_backend('whole_file')
class AtomicFileBackend(LocalBackend):
    """MMEngine's local file backend, with atomic writes.

    A file is written to a temporary file in the same folder, synced to disk and renamed. At every
    instant, and after a crash of the process or the machine, it has the old content or the new.
    Selected by ``backend_args=dict(backend='whole_file')``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes. If this fails, the old file is unchanged."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f'.{path.name}.{socket.gethostname()}.{os.getpid()}{PARTIAL}')
        try:
            with open(partial, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text. If this fails, the old file is unchanged."""
        self.put(obj.encode(encoding), filepath)


def sync_folder(path: str | Path) -> None:
    """Sync a folder, so that a rename in it is on disk, if its file system can do so."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise
    finally:
        os.close(folder)


def remove_partial_files(folder: str | Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for path in Path(folder).glob(f'.*{PARTIAL}'):
        path.unlink(missing_ok=True)
