"""No tool runs what a checkpoint names, unless it is told to trust the file."""

from pathlib import Path

import pytest
import torch
from helpers.common import ROOT, data_options
from helpers.malicious import commands, save
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


@pytest.fixture
def files(tmp_path):
    """A checkpoint with a command in it, and the file that this would leave."""
    marker, work = tmp_path / 'ran', tmp_path / 'work'
    work.mkdir()
    return save(work / 'epoch_1.pth', commands(marker)['os.system'][0]), marker


def words_of(way, path, options):
    work = path.parent
    return {
        'resume': ['train.py', RECIPE, '--work-dir', work, '--resume', path],
        'resume the newest': ['train.py', RECIPE, '--work-dir', work, '--resume'],
        'load_from': ['train.py', RECIPE, '--work-dir', work],
        'test': ['test.py', RECIPE, path, '--work-dir', work],
        'draw': ['draw_detections.py', RECIPE, path, '--out', work / 'out.png'],
    }[way] + (
        []
        if way == 'draw'
        else [
            '--cfg-options',
            *options,
            'default_hooks.lr.warmup_iters=4',
            *([f'load_from={path}'] if way == 'load_from' else []),
        ]
    )


def assert_one_line(done, path):
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith('error: ') and str(path) in last
    assert 'posix.system' in last and '--trust-checkpoint' in last


@pytest.mark.parametrize('way', ['resume', 'resume the newest', 'load_from', 'test', 'draw'])
@pytest.mark.slow
def test_refused_in_one_line(way, files, shapes, tmp_path, tool):
    path, marker = files
    recipe_data(shapes, tmp_path)
    assert_one_line(tool(*words_of(way, path, data_options(shapes)), cwd=tmp_path), path)
    assert not marker.exists()


def recipe_data(shapes, folder):
    """`draw_detections.py` takes no options: it finds the data where the recipe says."""
    (folder / 'data').mkdir()
    (folder / 'data/shapes').symlink_to(shapes)
    (folder / 'configs').symlink_to(ROOT / 'configs')


@pytest.mark.slow
def test_as_a_process(tool, files, shapes):
    path, marker = files
    done = tool(*words_of('test', path, data_options(shapes)), process=True)
    assert_one_line(done, path)
    assert not marker.exists()


@pytest.mark.slow
def test_the_switch_trusts_the_file(tool, shapes, tmp_path):
    path = tmp_path / 'notes.pth'
    init_default_scope('mmdet')
    weights = MODELS.build(Config.fromfile(ROOT / RECIPE).model).state_dict()
    torch.save(dict(state_dict=weights, meta=dict(note=Path('notes'))), path)
    words = words_of('test', path, data_options(shapes))
    done = tool(*words, '--trust-checkpoint', process=True)
    assert done.returncode == 0, done.stderr[-2000:]
