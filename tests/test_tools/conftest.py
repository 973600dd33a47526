"""Fixtures that tests of several tools share."""

import pytest
from common import ROOT


@pytest.fixture
def benchmark_modules(monkeypatch):
    """Import the modules of the optimizers' benchmark as it does itself."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    monkeypatch.chdir(ROOT)
