"""MMDetection's own tools and interfaces, given what a training of this project leaves."""

import runpy
import sys
from pathlib import Path

import mmdet
import pytest
import torch
from helpers.common import ROOT, data_options
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.fileio import load

TOOLS = Path(mmdet.__file__).parent / '.mim/tools'
RECIPE = 'configs/shapes_small/mask-rcnn_r18_fpn_1xb16-lamb-1x_shapes.py'
RECIPES = sorted((ROOT / 'configs').glob('[!_]*/*.py'))
# 20 pictures are 2 updates an epoch.
SHORT = [
    *('train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'default_hooks.lr.milestones=[]'),
    *('default_hooks.lr.warmup_iters=2', 'default_hooks.logger.interval=1'),
    # Detections also of a model that has learned nothing.
    'model.test_cfg.rcnn.score_thr=0.0',
    # The inferencer's batch: others round differently.
    'test_dataloader.batch_size=1',
    'default_hooks.checkpoint.published_keys=[meta,state_dict]',
]


@pytest.fixture(scope='module')
def trained(tool, shapes, tmp_path_factory):
    work = tmp_path_factory.mktemp('trained')
    options = ('--cfg-options', *data_options(shapes), *SHORT)
    done = tool('train.py', RECIPE, '--work-dir', work, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return work


@pytest.fixture(scope='module')
def tested(trained, tool):
    """The finished `test.py --out`; the last argument is the file of the predictions."""
    checkpoint, out = trained / 'epoch_2.pth', trained / 'out.pkl'
    done = tool('test.py', next(trained.glob('*.py')), checkpoint, '--out', out)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def stock_tool(monkeypatch, tmp_path):
    """Run one of MMDetection's tools in this process."""

    def run(name, *words):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, words)])
        runpy.run_path(str(TOOLS / name), run_name='__main__')

    monkeypatch.chdir(tmp_path)
    return run


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: f'{path.parent.name}/{path.stem}')
def test_the_inferencer_finds_the_loading_of_pictures(recipe):
    """It replaces `LoadImageFromFile` of the test pipeline, which it looks for by this name."""
    pipeline = Config.fromfile(recipe).test_dataloader.dataset.pipeline
    assert DetInferencer._get_transform_idx(None, pipeline, ('LoadImageFromFile',)) == 0


def inferencer(checkpoint):
    return DetInferencer(weights=str(checkpoint), device='cpu', show_progress=False)


def test_a_checkpoint_alone_is_enough_for_the_inferencer(trained, tested):
    """It has the config. The boxes are those of a test."""
    infer = inferencer(trained / 'epoch_2.pth')
    assert infer.model.dataset_meta['classes'] == ('circle', 'square', 'triangle')
    for image in load(tested.args[-1]):
        [found] = infer(image['img_path'])['predictions']
        expected = image['pred_instances']
        assert found['bboxes'] == expected['bboxes'].tolist()
        assert found['scores'] == expected['scores'].tolist()
        assert found['labels'] == expected['labels'].tolist()


def test_published_weights_are_enough_too(trained, shapes):
    """MMEngine's hook writes them at the end; PyTorch loads them without trust."""
    [published] = trained.glob('epoch_2-*.pth')
    assert set(torch.load(published, weights_only=True)) == {'meta', 'state_dict'}
    predictions = [
        inferencer(path)(str(shapes / 'val')) for path in (published, trained / 'epoch_2.pth')
    ]
    assert predictions[0] == predictions[1] and len(predictions[0]['predictions']) == 8


def test_predictions_of_test_py_are_read(tested, stock_tool, tmp_path, capsys):
    config, out = tested.args[1], tested.args[-1]
    stock_tool('analysis_tools/eval_metric.py', config, out)
    [ap] = [x for x in tested.stdout.split('  ') if x.strip().startswith('coco/bbox_mAP:')]
    assert f"'coco/bbox_mAP': {float(ap.split()[1])}" in capsys.readouterr().out
    stock_tool('analysis_tools/confusion_matrix.py', config, out, tmp_path)
    assert (tmp_path / 'confusion_matrix.png').stat().st_size > 0


def test_logs_are_read(trained, stock_tool, tmp_path, capsys):
    [log] = trained.glob('*/vis_data/scalars.json')
    words = ('--keys', 'loss', 'bbox_mAP', '--style', 'default', '--out', tmp_path / 'a.png')
    stock_tool('analysis_tools/analyze_logs.py', 'plot_curve', log, *words)
    assert (tmp_path / 'a.png').stat().st_size > 0
    stock_tool('analysis_tools/analyze_logs.py', 'cal_train_time', log)
    assert 'slowest epoch ' in capsys.readouterr().out


def test_pictures_and_settings_are_shown(shapes, stock_tool, tmp_path, capsys):
    words = (ROOT / RECIPE, '--cfg-options', *data_options(shapes))
    stock_tool('misc/print_config.py', *words)
    assert "type='GlobalBatchTrainLoop'" in capsys.readouterr().out
    stock_tool('analysis_tools/browse_dataset.py', *words, '--output-dir', tmp_path, '--not-show')
    assert len(list(tmp_path.glob('*.png'))) == 20
