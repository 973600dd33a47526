"""A wrong checkpoint, and wrong initial weights, end a tool with one line and exit code 2."""

import pytest
from helpers.common import ROOT, data_options
from helpers.tools import assert_one_line

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


@pytest.fixture
def evaluate(tool, shapes, tmp_path):
    def run(checkpoint):
        work, options = tmp_path / 'work', data_options(shapes)
        return tool('test.py', RECIPE, checkpoint, '--work-dir', work, '--cfg-options', *options)

    return run


def test_no_such_checkpoint(train, evaluate):
    assert_one_line(evaluate('none.pth'), 'checkpoint=none.pth: no such checkpoint.')
    done = train(arguments=('--resume', 'none.pth'))
    assert_one_line(done, '--resume=none.pth: no such checkpoint.')


def test_a_work_folder_and_its_pointer_are_no_checkpoints(train, evaluate, tmp_path):
    newest = tmp_path / 'old/epoch_3.pth'
    newest.parent.mkdir()
    assert_one_line(evaluate(tmp_path), f"checkpoint='{tmp_path}'. Must be a checkpoint file.")
    (tmp_path / 'old/last_checkpoint').write_text(str(newest))
    for path in (tmp_path / 'old', tmp_path / 'old/last_checkpoint'):
        done = train(arguments=('--resume', path))
        assert_one_line(done, f"--resume='{path}'. Must be a checkpoint file, such as {newest}.")


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', b'PK\x03\x04 truncated'])
@pytest.mark.slow
def test_broken_checkpoint(evaluate, tmp_path, content):
    checkpoint = tmp_path / 'broken.pth'
    checkpoint.write_bytes(content)
    assert_one_line(evaluate(checkpoint), f'checkpoint={checkpoint}: it ')


def test_a_broken_checkpoint_in_the_home_folder(train, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'broken.pth').write_bytes(b'not a checkpoint')
    done = train('load_from=~/broken.pth', 'default_hooks.lr.warmup_iters=2')
    assert_one_line(done, f'checkpoint={tmp_path}/broken.pth: it cannot be read (it is')


def with_initial_weights(folder, part, init_cfg):
    """A config of the recipe with the initial weights of a part of the model."""
    path = folder / 'config.py'
    path.write_text(f"_base_ = '{ROOT / RECIPE}'\nmodel = dict({part}=dict(init_cfg={init_cfg}))\n")
    return path


@pytest.mark.parametrize('name', ['train.py', 'sweep.py', 'branch.py'])
def test_missing_initial_weights(tool, name, tmp_path):
    """Refused before the data are read."""
    init_cfg = dict(_delete_=True, type='Pretrained', checkpoint='none.pth')
    done = tool(name, with_initial_weights(tmp_path, 'backbone', init_cfg))
    part = "Invalid model.backbone.init_cfg.checkpoint='none.pth'. Must be a file that exists"
    assert_one_line(done, part)
    several = [dict(type='Constant', val=0), dict(type='PretrainedInit', checkpoint='none.pth')]
    done = tool(name, with_initial_weights(tmp_path, 'neck', several))
    assert_one_line(done, "Invalid model.neck.init_cfg.1.checkpoint='none.pth'. Must be a file")
    done = tool(name, RECIPE, '--cfg-options', 'load_from=none.pth')
    assert_one_line(done, 'load_from=none.pth: no such checkpoint.')


def test_weights_that_cannot_be_downloaded(train, tmp_path):
    """Nobody listens on the discard port of this machine."""
    url, short = 'http://127.0.0.1:9/weights.pth', 'default_hooks.lr.warmup_iters=2'
    init_cfg = dict(_delete_=True, type='Pretrained', checkpoint=url)
    config = with_initial_weights(tmp_path, 'backbone', init_cfg)
    assert_one_line(train(short, config=config), f'checkpoint={url}: it cannot be downloaded (')
    done = train(short, f'load_from={url}')
    assert_one_line(done, f'checkpoint={url}: it cannot be downloaded (')
