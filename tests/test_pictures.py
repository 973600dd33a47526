"""The error of a picture that cannot be read names its file, and no other error does."""

import socket
from urllib.error import URLError

import pytest
from mmdet.registry import TRANSFORMS

from mmdet_largebatch.errors import PictureError


def load(path, backend):
    return TRANSFORMS.build(dict(type='LoadImageFromFile', imdecode_backend=backend))(
        dict(img_path=str(path))
    )


@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
@pytest.mark.parametrize('content', ['no picture', 'half of a picture'])
def test_a_broken_picture_is_named(shapes, tmp_path, backend, content):
    path = tmp_path / 'broken.png'
    whole = (shapes / 'train/000000.png').read_bytes()
    path.write_bytes(b'no picture' if content == 'no picture' else whole[: len(whole) // 2])
    with pytest.raises(PictureError, match=f'img_path={path}: it does not decode'):
        load(path, backend)


@pytest.mark.parametrize('answer', ['refused', 'none'])
def test_an_error_of_the_network_is_no_broken_picture(monkeypatch, answer):
    """A restart may read the picture."""
    monkeypatch.setenv('no_proxy', '*')
    before = socket.getdefaulttimeout()
    with socket.socket() as server:
        server.bind(('127.0.0.1', 0))
        if answer == 'none':
            server.listen()
        socket.setdefaulttimeout(0.1)
        try:
            with pytest.raises((URLError, TimeoutError)) as raised:
                load(f'http://127.0.0.1:{server.getsockname()[1]}/one.png', 'cv2')
        finally:
            socket.setdefaulttimeout(before)
    assert raised.value.errno is None
