"""Fixtures that tests of several tools share."""

import runpy
import sys
from types import SimpleNamespace

import pytest
import torch
from common import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config


@pytest.fixture
def benchmark_modules(monkeypatch):
    """Import the modules of the optimizers' benchmark as it does itself."""
    monkeypatch.syspath_prepend(ROOT / 'tools')
    monkeypatch.chdir(ROOT)


TINY = 'tests/test_tools/pure_python/lamb.py'


@pytest.fixture
def typed(monkeypatch, capfd):
    """Run `python tools/NAME ARGUMENTS` in this process; return its exit code and output."""
    monkeypatch.chdir(ROOT)

    def run(name, *words):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, words)])
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(f'tools/{name}', run_name='__main__')
        except SystemExit as ended:
            status = ended.code or 0
        written = capfd.readouterr()
        return SimpleNamespace(returncode=status, stdout=written.out, stderr=written.err)

    return run


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory):
    """The initial weights of the pure-Python recipe."""
    path = tmp_path_factory.mktemp('tiny') / 'tiny.pth'
    model = MODELS.build(Config.fromfile(ROOT / TINY).model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path
