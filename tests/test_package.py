"""The package as it is installed and imported."""

import re
import sys
from importlib.metadata import requires, version
from importlib.util import find_spec

import pytest
from common import ROOT
from mmdet.registry import (
    DATA_SAMPLERS,
    HOOKS,
    LOOPS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
)

import mmdet_largebatch


@pytest.mark.parametrize(
    ('registry', 'name'),
    [
        (OPTIMIZERS, 'LAMB'),
        (OPTIMIZERS, 'LARS'),
        (HOOKS, 'WarmupStepLRHook'),
        (PARAM_SCHEDULERS, 'WarmupStepLR'),
        (LOOPS, 'GlobalBatchTrainLoop'),
        (DATA_SAMPLERS, 'GlobalBatchSampler'),
    ],
)
def test_registered_with_mmdet_and_not_above_it(registry, name):
    """MMEngine's root registry gets LAMB and LARS of its own where bitsandbytes is installed."""
    assert registry.module_dict[name].__module__.startswith('mmdet_largebatch.')
    assert registry.parent is None or name not in registry.parent.module_dict


def test_without_mmdet_one_line_says_what_to_install(command):
    """-S leaves out the installed packages, so that nothing of OpenMMLab's is there."""
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r}); import mmdet_largebatch'
    done = command(sys.executable, '-S', '-c', code)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith('ImportError: mmdet_largebatch needs mmengine, mmcv, mmdet')
    assert '[onedl]' in line and '[openmmlab]' in line


def test_neither_family_is_forced_and_apex_never_listed():
    plain = [r for r in requires('mmdet_largebatch') if 'extra ==' not in r]
    assert {re.split(r'[<>=!~]', r)[0] for r in plain} == {'numpy', 'torch'}
    listed = (ROOT / 'requirements.txt').read_text().splitlines() + requires('mmdet_largebatch')
    assert not [line for line in listed if line.strip().startswith('apex')]


def test_requirements_are_exact_and_what_is_installed():
    lines = (ROOT / 'requirements.txt').read_text().splitlines()
    for line in lines:
        if line and not line.startswith('#'):
            name, pinned = line.split('==')
            # A build tag such as +cpu is not part of the pin.
            assert version(name).split('+')[0] == pinned, name


def test_version_is_that_of_the_metadata():
    assert version('mmdet_largebatch') == mmdet_largebatch.__version__
    assert find_spec('mmdet_largebatch').origin == str(ROOT / 'mmdet_largebatch/__init__.py')
