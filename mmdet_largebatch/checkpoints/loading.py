"""Replace MMEngine's loaders of checkpoints by loaders that run no code of the checkpoint."""

import functools
import os
from collections.abc import Callable
from typing import Any
from urllib.error import URLError

from mmengine.runner import CheckpointLoader

from ..compat import checkpoint_loaders
from ..errors import SettingError
from .unpickling import load_safely, safe_torch_load


@CheckpointLoader.register_scheme(prefixes='', force=True)
def load_from_local(filename: str, map_location: str | Callable | None = None) -> dict[str, Any]:
    """Load a local checkpoint, of weights or of a training, without running code that it names.

    Once this package is imported, MMEngine calls this for every path without a scheme. MMEngine
    0.10.7 calls ``torch.load``, which refuses the checkpoint of a training since torch 2.6.
    onedl's MMEngine runs the code that the file names. :mod:`.unpickling` runs none.

    Args:
        filename (str): Path on a local file system.
        map_location (str or Callable, optional): As for :func:`torch.load`.

    Returns:
        dict[str, Any]: The checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        UnsafeCheckpoint: If the file names code, and :func:`trust_checkpoints` was not called.
    """
    path = os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'{path} can not be found.')
    return load_safely(path, map_location)


def _safely(loader: Callable) -> Callable:
    """Let a loader of MMEngine read its download by our unpickler, and report a failed download."""

    @functools.wraps(loader)
    def load(filename: str, *args: Any, **kwargs: Any) -> Any:
        try:
            with safe_torch_load():
                return loader(filename, *args, **kwargs)
        except (URLError, ConnectionError, TimeoutError) as error:
            reason = getattr(error, 'reason', None) or error
            raise SettingError(
                f'checkpoint={filename}: it cannot be downloaded ({reason}). Must be an address '
                'that this machine reaches, or a file. Initial weights of a backbone are left out '
                'by --cfg-options model.backbone.init_cfg=None.'
            ) from error

    return load


for _prefix, _loader in checkpoint_loaders().items():
    if _prefix:
        CheckpointLoader.register_scheme(_prefix, _safely(_loader), force=True)
