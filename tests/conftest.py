"""Fixtures that tests of several folders share: real files, and running commands."""

import gc
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.common import ROOT, leave_config_text
from helpers.tools import run_here
from mmengine.config import utils as config_utils
from mmengine.registry import init_default_scope


def pytest_collection_modifyitems(items):
    """Files with long tests first: tools/run_tests.sh gives whole files to two processes."""
    marked = ('slow', 'multiprocess')
    long = {item.path for item in items if any(map(item.get_closest_marker, marked))}
    items.sort(key=lambda item: item.path not in long)


def pytest_runtest_setup(item):
    if item.get_closest_marker('gpu') and not torch.cuda.is_available():
        pytest.skip('needs a GPU')


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """Two cores are shared with the processes that some tests start.

    Of two threads that OpenMP starts, one waits in a loop for the other. Where that one has no core
    of its own, an update takes 14 s instead of 1 s.
    """
    torch.set_num_threads(1)
    os.environ['OMP_NUM_THREADS'] = '1'


@pytest.fixture(scope='session', autouse=True)
def short_starts():
    """Of tools in this process.

    MMEngine collects garbage for each data set, and reads a hundred metafiles of MMDetection for
    each config that inherits from `mmdet::`.
    """
    leave_config_text()
    gc.freeze()
    config_utils.load = cache(config_utils.load)


@pytest.fixture(autouse=True)
def mmdet_scope():
    """A Runner leaves its scope as the default one; every test begins in mmdet's."""
    init_default_scope('mmdet')


@pytest.fixture(scope='module', autouse=True)
def mmdet_scope_of_module():
    """And so does what a file's tests share."""
    init_default_scope('mmdet')


@pytest.fixture(scope='session')
def command():
    """Run a command from the repository's root; give back the finished process, output as text."""

    def run(*words, timeout=1800, **environment):
        return subprocess.run(
            [str(word) for word in words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=os.environ
            | dict(PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
            | environment,
        )

    return run


@pytest.fixture(scope='session')
def tool(command):
    """Run `python tools/NAME WORDS` in this process, or with `process=True` in one of its own."""

    def run(name, *words, process=False, **options):
        if process:
            return command(sys.executable, f'tools/{name}', *words, **options)
        return run_here(name, *words, **options)

    return run


@pytest.fixture(scope='session')
def shapes(tmp_path_factory, tool):
    """A set of 20 + 8 pictures of shapes, as the tool writes it."""
    root = tmp_path_factory.mktemp('shapes')
    tool('make_shapes.py', '--out', root, '--train', 20, '--val', 8).check_returncode()
    return root


@pytest.fixture(scope='session')
def shapes_as_coco(tmp_path_factory, shapes):
    """The same pictures under names of COCO's 80 categories, so that COCO recipes take them."""
    root = tmp_path_factory.mktemp('coco')
    for split in ('train', 'val'):
        content = json.loads((shapes / f'annotations/instances_{split}.json').read_text())
        for category, name in zip(content['categories'], ('frisbee', 'book', 'kite'), strict=True):
            category['name'] = name
        path = root / f'annotations/instances_{split}2017.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        (root / f'{split}2017').symlink_to(shapes / split)
    return root
