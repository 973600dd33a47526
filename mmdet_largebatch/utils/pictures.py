"""Name the file in the error of a picture that cannot be read.

OpenCV does not, and MMEngine passes its errors on from a data worker as a long traceback.
"""

import errno
from collections.abc import Callable
from functools import wraps
from typing import Any

import cv2
from mmcv.transforms import LoadImageFromFile
from PIL import UnidentifiedImageError

from ..errors import PictureError

Transform = Callable[[LoadImageFromFile, dict], dict | None]
# Errors of the file. Others, such as those of a network, may be temporary.
OF_THE_FILE = {
    *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES),
    *(errno.EPERM, errno.ENAMETOOLONG, errno.EINVAL),
}


def _defect(error: Exception) -> str | None:
    """Describe the defect of a picture's file; None for any other error."""
    if isinstance(error, OSError) and error.errno is not None:
        return (error.strerror or str(error)).lower() if error.errno in OF_THE_FILE else None
    if isinstance(error, cv2.error):
        return f'it does not decode (OpenCV: {error.err or error})'
    # mmcv asserts that the picture was decoded, or fails on None; Pillow raises the others. Errors
    # of a network are OSErrors too, of their own types.
    of_pillow = type(error) in (OSError, UnidentifiedImageError) or isinstance(error, SyntaxError)
    if of_pillow or isinstance(error, AssertionError) or 'NoneType' in str(error):
        return f'it does not decode ({type(error).__name__})'
    return None


def _naming_the_picture(transform: Transform) -> Transform:
    @wraps(transform)
    def named(self: LoadImageFromFile, results: dict) -> dict[str, Any] | None:
        try:
            return transform(self, results)
        except Exception as error:
            defect = _defect(error)
            if defect is None:
                raise
            raise PictureError(
                f'img_path={results.get("img_path")}: {" ".join(defect.split())}. Must be a '
                'picture that can be read; replace the file, or remove it from the annotations.'
            ) from error

    return named


LoadImageFromFile.transform = _naming_the_picture(LoadImageFromFile.transform)
