"""Refusals and output of test.py and draw_detections.py."""

import re

import pytest
from helpers.common import ROOT, data_options
from helpers.forked import free_port
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.fileio import load

from mmdet_largebatch.cli import use_test_time_augmentation

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


@METRICS.register_module()
class FailsAtItsEnd(CocoMetric):
    """It cannot compute."""

    def compute_metrics(self, results):
        raise KeyError('at the end')


def test_predictions_outlive_a_metric_that_fails(tool, shapes, tiny_checkpoint, tmp_path):
    out = tmp_path / 'found.pkl'
    words = ('test.py', RECIPE, tiny_checkpoint, '--work-dir', tmp_path, '--out', out)
    options = (*data_options(shapes), 'test_evaluator.type=FailsAtItsEnd')
    done = tool(*words, '--cfg-options', *options)
    assert done.returncode == 1 and "KeyError: 'at the end'" in done.stderr
    pictures = {path.name for path in (shapes / 'val').iterdir()}
    assert {row['img_path'].rsplit('/', 1)[1] for row in load(out)} == pictures


@pytest.fixture
def config_of(shapes, tmp_path):
    """Return a function that writes a config with two data sets, and their metrics."""

    def write(metric):
        path = tmp_path / 'config.py'
        Config.fromfile(ROOT / RECIPE).dump(path)
        # Types by name, which can be written in lists too; mmcv's ops by short names.
        path.write_text(re.sub(r"'mmcv\.ops\.(\w+\.)?(\w+)'", r"'\2'", path.read_text()))
        cfg = Config.fromfile(path)
        pairs = [option.split('=', 1) for option in data_options(shapes)]
        cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in pairs})
        test = cfg.test_dataloader.dataset
        sets = [test, ConfigDict(test, indices=4)]
        cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=sets)
        metrics = [dict(cfg.test_evaluator, **metric) for _ in sets]
        evaluator = dict(type='MultiDatasetsEvaluator', dataset_prefixes=['all', 'some'])
        cfg.test_evaluator = dict(evaluator, metrics=metrics)
        cfg.dump(path)
        return path

    return write


def test_two_data_sets_in_one_file_of_predictions(tool, tiny_checkpoint, config_of, tmp_path):
    """mmdet's evaluator takes its n-th metric for that of the n-th data set."""
    out = tmp_path / 'found.pkl'
    words = ('--work-dir', tmp_path, '--tta', '--out', out)
    done = tool('test.py', config_of({}), tiny_checkpoint, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(load(out)) == 8 + 4
    assert 'all/coco/bbox_mAP: ' in done.stdout and 'some/coco/bbox_mAP: ' in done.stdout


@pytest.mark.parametrize(
    'nested', [{}, dict(type='MultiDatasetsEvaluator', dataset_prefixes=['a'])]
)
def test_tta_leaves_masks_out_of_a_nested_evaluator(nested, capsys):
    cfg = Config.fromfile(ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py')
    cfg.test_evaluator = dict(nested, metrics=[cfg.test_evaluator])
    use_test_time_augmentation(cfg)
    assert cfg.test_evaluator.metrics[0].metric == ['bbox']
    assert 'test_evaluator.metrics.0.metric=segm is left out' in capsys.readouterr().err


def test_tta_of_metrics_that_need_masks(tool, tiny_checkpoint, config_of, tmp_path):
    config = config_of(dict(type='CityScapesMetric', metric='bbox'))
    done = tool('test.py', config, tiny_checkpoint, '--work-dir', tmp_path, '--tta')
    assert done.returncode == 2, done.stderr[-3000:]
    assert "Invalid test_evaluator.metrics.0.type='CityScapesMetric'. Must be a" in done.stderr


@pytest.mark.multiprocess
def test_every_picture_is_drawn_on_two_ranks(command, shapes, tiny_checkpoint, tmp_path):
    done = command(
        *('tools/dist_test.sh', RECIPE, tiny_checkpoint, 2, '--work-dir', tmp_path / 'work'),
        *('--show-dir', tmp_path / 'drawn', '--out', tmp_path / 'found.pkl'),
        *('--cfg-options', *data_options(shapes)),
        'test_dataloader.batch_size=1',
        PORT=str(free_port()),
    )
    assert done.returncode == 0, done.stderr
    pictures = sorted(path.name for path in (shapes / 'val').iterdir())
    assert sorted(path.name for path in (tmp_path / 'drawn').iterdir()) == pictures
    found = load(tmp_path / 'found.pkl')
    assert sorted(row['img_path'].rsplit('/', 1)[1] for row in found) == pictures
