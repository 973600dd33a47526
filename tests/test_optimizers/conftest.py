"""Fixtures: NVIDIA's class on the emulation of its extension."""

import pytest
from helpers.optimizers.apex_emulation import AmpC
from helpers.optimizers.nvidias_apex import importable

from mmdet_largebatch.optimizers import apex_lamb


@pytest.fixture
def amp_C(monkeypatch):
    """The extension under NVIDIA's package; CPU tensors pass for a GPU's in all of them."""
    monkeypatch.setattr(apex_lamb, 'is_on_gpu', lambda p: True)
    extension = AmpC()
    with importable(extension):
        yield extension


@pytest.fixture
def fused_lamb(amp_C):
    """NVIDIA's class."""
    from apex.optimizers import FusedLAMB

    return FusedLAMB
