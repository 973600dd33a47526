"""Refusals and output of test.py and draw_detections.py."""

import pytest
from helpers.common import data_options
from helpers.forked import free_port

RECIPE = 'tests/helpers/pure_python/lamb.py'


@pytest.fixture
def refused(tool, shapes, tiny_checkpoint, tmp_path):
    def run(name, *words, options=()):
        place = ('--work-dir', tmp_path / 'work') if name == 'test.py' else ()
        options = ('--cfg-options', *data_options(shapes), *options)
        done = tool(name, RECIPE, tiny_checkpoint, *place, *words, *options)
        assert done.returncode == 2, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
        return line

    return run


@pytest.mark.parametrize('name', ['test.py', 'draw_detections.py'])
def test_a_checkpoint_of_another_model(refused, name):
    line = refused(name, options=['model.roi_head.bbox_head.fc_out_channels=32'])
    assert 'its roi_head.bbox_head.fc_cls.weight has the shape [4, 16]' in line
    assert 'the config asks for [4, 32], and 5 more differ' in line


@pytest.mark.parametrize(
    ('name', 'words', 'part'),
    [
        (
            'test.py',
            ('--out', '/proc/none/a.pkl'),
            "Invalid --out='/proc/none/a.pkl'. Must be in a writable folder (",
        ),
        ('test.py', ('--out', 'a.txt'), "Invalid --out='a.txt'. Must be a .pkl or .pickle file."),
        (
            'test.py',
            ('--show-dir', '/proc/none'),
            "Invalid --show-dir='/proc/none'. Must be a writable folder (",
        ),
        ('draw_detections.py', ('--pictures', '0'), 'Invalid --pictures=0. Must be >= 1.'),
        ('draw_detections.py', ('--score', '2'), 'Invalid --score=2.0. Must be in [0, 1].'),
        (
            'draw_detections.py',
            ('--out', '/proc/none/a.png'),
            "Invalid --out='/proc/none/a.png'. Must be in a writable folder (",
        ),
        ('draw_detections.py', ('--out', 'a.xyz'), "Invalid --out='a.xyz'. Must be a .png"),
        ('draw_detections.py', ('--device', 'nowhere'), '--device=nowhere: not on this machine'),
    ],
)
def test_arguments(refused, name, words, part):
    assert part in refused(name, *words)


@pytest.mark.parametrize('name', ['test_dataloader', 'test_evaluator'])
def test_a_config_without_a_test(refused, name):
    line = refused('test.py', options=[f'{name}=None'])
    assert f'{name} is not set.' in line


def test_the_config_of_a_training_that_resumed(
    tool, shapes, tiny_checkpoint, tmp_path, monkeypatch
):
    """It has resume=True. The weights are evaluated, and the training data are not read."""
    monkeypatch.setenv('HOME', str(tiny_checkpoint.parent))
    options = ('resume=True', 'train_dataloader.dataset.ann_file=none.json')
    words = ('test.py', RECIPE, f'~/{tiny_checkpoint.name}', '--work-dir', tmp_path)
    done = tool(*words, '--cfg-options', *data_options(shapes), *options)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.multiprocess
def test_every_picture_is_drawn_on_two_ranks(command, shapes, tiny_checkpoint, tmp_path):
    done = command(
        *('tools/dist_test.sh', RECIPE, tiny_checkpoint, 2, '--work-dir', tmp_path / 'work'),
        *('--show-dir', tmp_path / 'drawn', '--cfg-options', *data_options(shapes)),
        'test_dataloader.batch_size=1',
        PORT=str(free_port()),
    )
    assert done.returncode == 0, done.stderr
    pictures = sorted(path.name for path in (shapes / 'val').iterdir())
    assert sorted(path.name for path in (tmp_path / 'drawn').iterdir()) == pictures
