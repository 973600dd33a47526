"""Atomic writes."""

import errno
import os
import resource
import signal
from contextlib import contextmanager

import pytest

from mmdet_largebatch.checkpoints import AtomicFileBackend
from mmdet_largebatch.checkpoints.atomic_file import remove_partial_files, sync_folder


@contextmanager
def at_most_1000_bytes():
    """Make the kernel stop every write of this process, pytest's included, at 1,000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_write_replaces_the_whole_file(tmp_path):
    backend, path = AtomicFileBackend(), tmp_path / 'folder' / 'a.pth'
    for content in (b'old' * 1000, b'new'):
        backend.put(content, path)
        assert path.read_bytes() == content
    backend.put_text('ä', path)
    assert path.read_text(encoding='utf-8') == 'ä'
    assert [file.name for file in path.parent.iterdir()] == ['a.pth']


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path):
    backend, path = AtomicFileBackend(), tmp_path / 'a.pth'
    backend.put(b'old', path)
    with at_most_1000_bytes(), pytest.raises(OSError) as raised:
        backend.put(b'new' * 1000, path)
    assert raised.value.errno == errno.EFBIG
    assert path.read_bytes() == b'old'
    assert [file.name for file in tmp_path.iterdir()] == ['a.pth']


def test_what_killed_processes_left_is_removed(tmp_path):
    (tmp_path / '.epoch_1.pth.host.12.partial').touch()
    for name in ('epoch_1.pth', '.hidden', 'a.partial'):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'epoch_1.pth', '.hidden', 'a.partial'}


def test_a_file_system_that_cannot_sync_a_folder():
    """That of /proc gives EINVAL, as some network and encrypted ones do. Other errors count."""
    folder = os.open('/proc', os.O_RDONLY)
    with pytest.raises(OSError, match='Invalid argument'):
        os.fsync(folder)
    os.close(folder)
    sync_folder('/proc')
    with pytest.raises(FileNotFoundError):
        sync_folder('/proc/none')
