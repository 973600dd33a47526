"""`plan.py --gpus --measure`: times that are measured on this machine."""

import time

import numpy as np
import pytest
from helpers.common import ROOT, data_options
from helpers.detector_training import training
from helpers.plans import LAMB, SHAPES, TRAIN2017
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmengine.config import Config

from mmdet_largebatch import SettingError
from mmdet_largebatch.planning import Times, estimate_hours, make_plan, measure, measured_times

pytestmark = pytest.mark.slow

RECIPE = SHAPES.format('lamb')


@TRANSFORMS.register_module()
class Sleep(BaseTransform):
    """Take 0.3 s for an image."""

    def transform(self, results):
        time.sleep(0.3)
        return results


@pytest.fixture
def small(shapes):
    """Options of the shapes recipe: 20 images of 64 pixels, one a micro-batch, 4 an update."""
    return [
        *data_options(shapes),
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        'train_dataloader.batch_size=1',
        'train_cfg.global_batch_size=4',
        'default_hooks.lr.warmup_iters=2',
    ]


def test_times_that_are_measured(hours, small, tmp_path, monkeypatch):
    """Each figure follows from the measured ones; nothing is written."""
    monkeypatch.chdir(tmp_path)
    words = ('--work-dir', tmp_path / 'work', '--gpus', 1, 2, 4, '--measure')
    rows, printed = hours(ROOT / RECIPE, *words, '--cfg-options', *small)
    assert printed['source'] == '--measure'
    assert printed['assumptions'][0].startswith('measured: 52 micro-batches of 1 images')
    for gpus, row in rows.items():
        parts = row['update']
        assert row['update_seconds'] == pytest.approx(
            parts['compute'] + parts['loading'] + parts['exposed'] + parts['step']
        )
        assert row['images_per_second'] == pytest.approx(4 / row['update_seconds'])
        # 20 images are 5 updates an epoch; 8 are evaluated, and there are 12 epochs.
        assert (row['updates'], row['evaluations'], row['checkpoints']) == (60, 12, 12)
        assert row['total_seconds'] == pytest.approx(
            60 * row['update_seconds']
            + 12 * row['evaluation_seconds']
            + 12 * row['checkpoint_seconds']
        )
        assert row['evaluation_seconds'] == pytest.approx(rows[1]['evaluation_seconds'] / gpus)
    each = [rows[gpus]['update']['compute'] for gpus in (1, 2, 4)]
    # The slowest of 2 and 4 takes more than its part, and at most all of it.
    assert each[0] > each[1] > each[0] / 2 and each[1] > each[2] > each[0] / 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('workers', 'warning'),
    [
        (0, 'The model waits for the loader: 0.3'),
        (1, 'The loader is too slow on 1, 4 GPUs: 0.3'),
    ],
)
def test_a_loader_that_is_too_slow_is_named(hours, small, tmp_path, monkeypatch, workers, warning):
    """0.3 s an image, where the model takes less."""
    monkeypatch.setattr(measured_times, 'MICRO_BATCHES', 4)
    load, *others = Config.fromfile(ROOT / RECIPE).train_pipeline
    loader = dict(
        num_workers=workers,
        persistent_workers=workers > 0,
        dataset=dict(pipeline=[load, dict(type='Sleep'), *others]),
    )
    path = tmp_path / 'slow.py'
    path.write_text(f'_base_ = {str(ROOT / RECIPE)!r}\ntrain_dataloader = {loader}\n')
    small[-5] = small[-5].replace('pipeline.2', 'pipeline.3')
    rows, printed = hours(path, '--gpus', 1, 4, '--measure', '--cfg-options', *small)
    (line,) = [line for line in printed['warnings'] if 'loader' in line]
    assert line.startswith(warning) and f'num_workers={workers}' in line
    # A rank gets its micro-batches one after the other, each after 0.3 s.
    for gpus, row in rows.items():
        assert row['update_seconds'] > 4 / gpus * 0.3
        assert (row['update']['loading'] > 0) == (workers > 0)


def test_two_passes_are_measured_apart(shapes, tmp_path, monkeypatch):
    """FCOS all-reduces its normalisers, so that there is a first pass; RetinaNet does not."""
    monkeypatch.setattr(measured_times, 'MICRO_BATCHES', 8)
    names = 'fcos', 'retinanet'
    cfgs = {name: training(name, shapes, tmp_path, micro_batches=4) for name in names}
    found = {name: measure(cfg, make_plan(cfg, 1)) for name, cfg in cfgs.items()}
    times = found['fcos']
    assert make_plan(cfgs['fcos'], 2).two_passes and not make_plan(cfgs['fcos'], 4).two_passes
    assert not make_plan(cfgs['retinanet'], 2).two_passes
    assert found['retinanet'].first_pass is None
    assert len(times.first_pass) == len(times.micro_batches) == 8
    assert 0 < times.first_pass.mean() < times.micro_batches.mean()
    assert times.assumptions[2].startswith('reduce_mean: a first pass of')


def test_a_first_pass_whose_time_is_not_known_is_said(shapes, tmp_path):
    cfg = training('fcos', shapes, tmp_path, micro_batches=4)
    said = []
    for ranks in (2, 4):
        hours = estimate_hours([make_plan(cfg, ranks)], Times('test', np.full(9, 0.25)), cfg)
        said.append('reduce_mean takes a first pass' in ' '.join(hours.assumptions))
    assert said == [True, False]


def test_weights_that_cannot_be_fetched_are_told(shapes, tmp_path):
    """Nobody listens on the discard port of this machine."""
    weights = dict(type='Pretrained', checkpoint='http://127.0.0.1:9/weights.pth')
    changes = {'model.backbone.init_cfg': weights}
    cfg = training('retinanet', shapes, tmp_path, micro_batches=4, **changes)
    with pytest.raises(SettingError, match='weights.pth: it cannot be downloaded'):
        measure(cfg, make_plan(cfg, 1))


def test_mmengines_loop_is_measured(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(measured_times, 'MICRO_BATCHES', 4)
    cfg = training('retinanet', shapes, tmp_path, micro_batches=0)
    times = measure(cfg, make_plan(cfg, 1))
    assert (len(times.micro_batches), times.step, times.evaluation) == (4, 0.0, None)


def test_measuring_needs_the_data(tool, tmp_path):
    options = f'train_dataloader.dataset.data_root={tmp_path}/'
    done = tool('plan.py', LAMB, '--images', TRAIN2017, '--measure', '--cfg-options', options)
    assert done.returncode == 2
    assert 'instances_train2017.json: no such' in done.stderr.splitlines()[-1]
