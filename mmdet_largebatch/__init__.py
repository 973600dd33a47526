"""Large-batch training for MMDetection: LARS, LAMB, their LR schedule and the global batch.

Importing this package registers everything it has in MMDetection's registries; a config does so by
``custom_imports = dict(imports=['mmdet_largebatch'], allow_failed_imports=False)``.
"""

import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any
from warnings import catch_warnings, filterwarnings

from .utils.garbage import paused_gc
from .version import __version__

_missing = [name for name in ('mmengine', 'mmcv', 'mmdet') if find_spec(name) is None]
if _missing:
    raise ImportError(
        f'mmdet_largebatch needs {", ".join(_missing)}, which is not installed. Run '
        "`pip install --no-build-isolation 'mmdet_largebatch[onedl]'` for the maintained forks or "
        "'mmdet_largebatch[openmmlab]' for OpenMMLab's releases, not both: they share import names."
    )

# While it is imported mmdet prints and warns about optional packages that it lacks. Collecting
# garbage would take a sixth of the time.
_printed = StringIO()
with redirect_stdout(_printed), catch_warnings(), paused_gc():
    filterwarnings('ignore', 'faster_coco_eval is not installed')
    import mmdet.datasets
    import mmdet.evaluation  # noqa: F401

    from . import registry
    from .global_batch import GlobalBatchSampler, GlobalBatchTrainLoop
    from .hooks import (
        AtomicCheckpointHook,
        DivergenceHook,
        NoiseScaleHook,
        PreemptionHook,
        RunRecordHook,
        TrustRatioHook,
        WarmupStepLRHook,
    )
    from .optimizers import LAMB, LARS, MergedGroupsConstructor
    from .schedulers import WarmupStepLR
    from .utils import pictures  # noqa: F401
    from .utils.load_image_once import LoadImageOnce
for _line in _printed.getvalue().splitlines():
    if 'Could not import OneDL' not in _line:
        print(_line, file=sys.stderr)
from .errors import DivergenceError, SettingError  # noqa: E402


def __getattr__(name: str) -> Any:
    """Import `carry_recipe` at its first use: no training needs pandas and matplotlib."""
    if name == 'carry_recipe':
        from .recipes import carry_recipe

        return carry_recipe
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = [
    'AtomicCheckpointHook',
    'DivergenceError',
    'DivergenceHook',
    'GlobalBatchSampler',
    'GlobalBatchTrainLoop',
    'LAMB',
    'LARS',
    'LoadImageOnce',
    'MergedGroupsConstructor',
    'NoiseScaleHook',
    'PreemptionHook',
    'RunRecordHook',
    'SettingError',
    'TrustRatioHook',
    'WarmupStepLR',
    'WarmupStepLRHook',
    '__version__',
    'carry_recipe',
    'registry',
]
