"""Files that are whole or absent."""

import os
import socket
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

# Of a file that is still being written: `.epoch_3.pth.HOST.PID.partial` beside `epoch_3.pth`.
PARTIAL = '.partial'


@register_backend('whole_file')
class AtomicFileBackend(LocalBackend):
    """MMEngine's local file backend, with writes that leave a whole file or the one before.

    A file is written under another name in the same folder, synced to the disk and renamed. So at
    every instant, and after a crash of the process or the machine, its name stands for the old
    content or for the new. Selected by ``backend_args=dict(backend='whole_file')``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes.

        Args:
            obj (bytes): The content.
            filepath (str or Path): The file; its folder is made if it is not there.

        Raises:
            OSError: If it cannot be written. What stood under the name still stands.
        """
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
        # The new name is safe once the folder is.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text.

        Args:
            obj (str): The content.
            filepath (str or Path): The file; its folder is made if it is not there.
            encoding (str): Encoding of the file. Defaults to 'utf-8'.

        Raises:
            OSError: If it cannot be written. What stood under the name still stands.
        """
        self.put(obj.encode(encoding), filepath)


def remove_partial_files(folder: str | Path) -> None:
    """Remove what killed processes left half-written.

    Args:
        folder (str or Path): The folder. No process may be writing to it.
    """
    for path in Path(folder).glob(f'.*{PARTIAL}'):
        path.unlink(missing_ok=True)
