"""NVIDIA's own package ``apex`` under test: finding it, and running its class beside ours.

Its class FusedLAMB is NVIDIA's Python code unchanged, out of the clone that the variable
APEX_SOURCE names; under it, the CUDA extension is emulated.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from mmdet_largebatch.errors import SettingError
from mmdet_largebatch.optimizers import LAMB

from .groups import as_arrays, assert_close, gradients, parameters, set_gradients
from .reference import ReferenceLAMB

APEX_SOURCE = os.environ.get('APEX_SOURCE') and Path(os.environ['APEX_SOURCE']).resolve()


def require_source() -> None:
    """Skip the module that calls this where there is no NVIDIA's class; fail where it is wrong."""
    if not APEX_SOURCE:
        pytest.skip(
            "APEX_SOURCE is not set: the path of a git clone of NVIDIA's apex, as the docstring of "
            'test_nvidias_class.py says',
            allow_module_level=True,
        )
    if not (APEX_SOURCE / 'apex/optimizers/fused_lamb.py').is_file():
        pytest.fail(
            f'Invalid APEX_SOURCE={APEX_SOURCE}. Must be a git clone of '
            'https://github.com/NVIDIA/apex: it has no apex/optimizers/fused_lamb.py.',
            pytrace=False,
        )


def loaded() -> list[str]:
    """The modules of any package ``apex`` that Python has now."""
    return [name for name in sys.modules if name.partition('.')[0] == 'apex']


@contextmanager
def importable(amp_C: ModuleType | None) -> Iterator[None]:
    """Let Python find NVIDIA's package, and leave everything as it was afterwards.

    Args:
        amp_C (ModuleType, optional): What is imported as its CUDA extension; None if it has none.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in loaded():
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, 'amp_C', amp_C)
        patch.setattr(sys, 'dont_write_bytecode', True)
        patch.syspath_prepend(str(APEX_SOURCE))
        try:
            yield
        finally:
            for name in loaded():
                del sys.modules[name]


def nothing(groups):
    """No change to the gradients."""


def train(optimizer, groups, steps=3, change=nothing, scale=1.0, **options):
    """Step an optimizer; returns the reference after the same gradients.

    Args:
        optimizer (Optimizer): NVIDIA's or ours.
        groups (list[dict]): Its groups.
        steps (int): Number of updates.
        change (Callable): Changes the gradients of the groups.
        scale (float): Of the gradients.
        **options: Those of the reference.
    """
    reference = ReferenceLAMB(as_arrays(groups), **options)
    for step in range(steps):
        set_gradients(groups, step, scale)
        change(groups)
        reference.step(gradients(groups))
        optimizer.step()
    return reference


def values(groups):
    """Copies of the parameters."""
    return [p.detach().clone() for p in parameters(groups)]


def is_close(groups, reference):
    """Return True if the parameters equal the reference to its tolerance."""
    try:
        assert_close(groups, reference)
    except AssertionError:
        return False
    return True


def on_apex(groups, **options):
    """Our LAMB on NVIDIA's class."""
    return LAMB(groups, backend='apex', **options)


def refusal(groups, **options):
    """Return the message with which the Apex backend refuses groups."""
    with pytest.raises(SettingError) as error:
        on_apex(groups, **options)
    assert '\n' not in str(error.value)
    return str(error.value)
