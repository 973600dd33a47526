"""Fixtures that tests of several tools share."""

import json

import pytest
import torch
from helpers.common import ROOT, data_options
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


SHAPES_RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


@pytest.fixture
def train(tool, shapes, tmp_path):
    """Run `train.py` on the shapes, with `--cfg-options`, or with lines added to the config."""

    def run(*options, config=SHAPES_RECIPE, data=shapes, arguments=(), settings=None):
        if settings is not None:
            text = f"_base_ = '{ROOT / config}'\n{settings}\n"
            config = tmp_path / 'config.py'
            config.write_text(text)
        options = [*data_options(data), *options]
        work = tmp_path / 'work'
        return tool('train.py', config, '--work-dir', work, *arguments, '--cfg-options', *options)

    return run
