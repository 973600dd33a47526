"""Fixtures that tests of several tools share."""

import json

import pytest
import torch
from helpers.common import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config


@pytest.fixture
def benchmark_modules(monkeypatch):
    """Import the modules of the optimizers' benchmark as it does itself."""
    monkeypatch.syspath_prepend(ROOT / 'tools/benchmarks')
    monkeypatch.chdir(ROOT)


TINY = 'tests/helpers/pure_python/lamb.py'


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory):
    """The initial weights of the pure-Python recipe."""
    path = tmp_path_factory.mktemp('tiny') / 'tiny.pth'
    model = MODELS.build(Config.fromfile(ROOT / TINY).model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


@pytest.fixture
def hours(tool):
    """Rows by GPUs, and the rest of what `plan.py --json` prints."""

    def run(*words):
        done = tool('plan.py', *words, '--json')
        assert done.returncode == 0, done.stderr[-3000:]
        printed = json.loads(done.stdout)
        return {row['gpus']: row for row in printed['rows']}, printed

    return run
