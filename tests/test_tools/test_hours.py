"""`plan.py --gpus` with each source of times, as a user types it."""

import json
import time
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import pytest
from helpers.common import ROOT, data_options
from helpers.detectors import training
from helpers.work_folders import SGD, config, whole, write
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmengine.config import Config

from mmdet_largebatch import SettingError
from mmdet_largebatch.planning import (
    Times,
    draw_hours,
    estimate_hours,
    make_plan,
    measure,
    measured_times,
)

# Most of them build the model of the recipe on COCO, for each number of GPUs.
pytestmark = pytest.mark.slow

LAMB = 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'
SHAPES = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
STOCK = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
# COCO train2017 after mmdet's filter; 917 updates an epoch at batch 128.
TRAIN2017 = 117_266
SAID = ('--images-per-second', 8, '--spread', 0)


@lru_cache
def planned(*gpus):
    """The recipe, and a plan of it for each number of GPUs."""
    cfg = Config.fromfile(ROOT / LAMB)
    return cfg, [make_plan(cfg, ranks, TRAIN2017) for ranks in gpus]


@pytest.fixture
def hours(tool):
    """Rows by GPUs, and the rest of what `plan.py --json` prints."""

    def run(*words):
        done = tool('plan.py', *words, '--json')
        assert done.returncode == 0, done.stderr[-3000:]
        printed = json.loads(done.stdout)
        return {row['gpus']: row for row in printed['rows']}, printed

    return run


def test_a_speed_that_is_said(hours):
    """2 images are 0.25 s; 44.17 M gradients of 4 bytes at 25 Gb/s hide behind 167 ms of backward
    but for the last of their 25 MiB buckets."""
    words = ('--gpus', 64, 1, 48, '--bandwidth', 25, '--price', 2)
    rows, printed = hours(LAMB, '--images', TRAIN2017, *words, *SAID)
    assert list(rows) == [1, 48, 64]
    sent = 4 * 44_166_981
    for gpus, share in {1: (64, 64), 48: (1, 2), 64: (1, 1)}.items():
        row, ring = rows[gpus], 2 * (gpus - 1) / gpus * 8 * sent / 25e9
        assert row['micro_batches_per_rank'] == list(share)
        assert row['update']['compute'] == pytest.approx(share[1] * 0.25)
        assert row['update']['all_reduce'] == pytest.approx(ring, rel=1e-3)
        assert row['update']['exposed'] == pytest.approx(ring * 25 * 2**20 / sent, rel=1e-3)
        seconds = share[1] * 0.25 + ring * 25 * 2**20 / sent
        assert row['update_seconds'] == pytest.approx(seconds, rel=1e-3)
        assert row['images_per_second'] == pytest.approx(128 / seconds, rel=1e-3)
        assert row['epoch_seconds'] == pytest.approx(917 * seconds, rel=1e-3)
        assert row['total_seconds'] == pytest.approx(11_004 * seconds, rel=1e-3)
        assert row['gpu_hours'] == pytest.approx(gpus * 11_004 * seconds / 3600, rel=1e-3)
        assert row['cost'] == pytest.approx(2 * row['gpu_hours'])
        assert row['efficiency'] == pytest.approx(128 / seconds / gpus / 8, rel=1e-3)
        assert row['evaluation_seconds'] is row['checkpoint_seconds'] is None
    assert printed['source'] == '--images-per-second'
    assert 'evaluation and checkpoints are not included' in ' '.join(printed['assumptions'])


def test_without_gpus_the_row_is_that_of_the_recipe(hours):
    rows, _ = hours(LAMB, '--images', TRAIN2017, *SAID)
    assert list(rows) == [64]


def test_uneven_micro_batches_cost_more_on_more_gpus(hours):
    """64 ranks of one wait for 1.57 times the mean, 8 ranks of eight for 1.10 times."""
    words = ('--gpus', 8, 64, '--bandwidth', 1e6, '--images-per-second', 8, '--spread', 0.2)
    rows, _ = hours(LAMB, '--images', TRAIN2017, *words)
    assert rows[8]['update_seconds'] == pytest.approx(1.10 * 2, rel=0.01)
    assert rows[64]['update_seconds'] == pytest.approx(1.57 * 0.25, rel=0.01)
    assert rows[64]['efficiency'] == pytest.approx(1.10 / 1.57, rel=0.015)


def test_under_mmengines_loop_the_batch_grows(hours):
    """7,330 updates an epoch at batch 16, 1,833 at 64."""
    words = ('--gpus', 8, 32, '--bandwidth', 1e6)
    rows, printed = hours(STOCK, '--images', TRAIN2017, *words, *SAID)
    assert [row['global_batch'] for row in rows.values()] == [16, 64]
    assert [row['updates'] for row in rows.values()] == [12 * 7330, 12 * 1833]
    assert rows[32]['total_seconds'] == pytest.approx(12 * 1833 * 0.25, rel=1e-3)
    assert 'the global batch grows with the GPUs' in printed['assumptions'][-1]


@pytest.mark.parametrize(
    ('changes', 'evaluations', 'checkpoints'),
    [
        ({}, 12, 12),
        (dict(val_interval=5), 3, 12),  # 5, 10 and 12
        (dict(val_begin=10), 3, 12),
        (dict(val_begin=13), 0, 12),
        (dict(val_interval=4, dynamic_intervals=[(10, 1)]), 6, 12),  # 4, 8 and 9 to 12
        (dict(max_updates=2000), 3, 3),  # 917, 1834 and 2000
        (dict(max_updates=1834), 2, 2),
    ],
)
def test_evaluations_and_checkpoints_are_counted(changes, evaluations, checkpoints):
    cfg = Config.fromfile(ROOT / LAMB)
    cfg.train_cfg.update(changes)
    plan = make_plan(cfg, 8, TRAIN2017)
    assert (plan.evaluations, plan.checkpoints) == (evaluations, checkpoints)


@pytest.mark.parametrize(
    ('hook', 'checkpoints'),
    [
        (dict(interval=5), 3),  # 5, 10 and 12
        (dict(interval=5, save_last=False), 2),
        (dict(interval=5, save_begin=4), 3),  # 4, 9 and 12
        (dict(interval=1000, by_epoch=False), 12),  # 11 of 1,000 and the last of 11,004
        (dict(interval=-1), 0),
        (None, 0),
    ],
)
def test_checkpoints_by_interval(hook, checkpoints):
    cfg = Config.fromfile(ROOT / LAMB)
    for name in ('preemption', 'divergence'):
        del cfg.default_hooks[name]
    cfg.default_hooks.checkpoint = hook and dict(type='CheckpointHook', **hook)
    assert make_plan(cfg, 8, TRAIN2017).checkpoints == checkpoints


def test_evaluations_and_checkpoints_add_to_the_total():
    """5,000 images on 64 GPUs are 79 on the one with most."""
    cfg, plans = planned(1, 64)
    times = Times('test', np.full(9, 0.25))
    known = replace(times, evaluation=0.1, validation_images=5000, checkpoint=2.0)
    without = estimate_hours(plans, times, cfg).rows
    rows = estimate_hours(plans, known, cfg).rows
    for row, base, images in zip(rows, without, (5000, 79), strict=True):
        assert row.evaluation_seconds == pytest.approx(0.1 * images)
        more = row.total_seconds - base.total_seconds
        assert more == pytest.approx(12 * 0.1 * images + 12 * 2)


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
    rows, printed = hours(ROOT / SHAPES, *words, '--cfg-options', *small)
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
    load, *others = Config.fromfile(ROOT / SHAPES).train_pipeline
    loader = dict(
        num_workers=workers,
        persistent_workers=workers > 0,
        dataset=dict(pipeline=[load, dict(type='Sleep'), *others]),
    )
    path = tmp_path / 'slow.py'
    path.write_text(f'_base_ = {str(ROOT / SHAPES)!r}\ntrain_dataloader = {loader}\n')
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
    with pytest.raises(SettingError, match='^--measure: the initial weights cannot be read'):
        measure(cfg, make_plan(cfg, 1))


def test_mmengines_loop_is_measured(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(measured_times, 'MICRO_BATCHES', 4)
    cfg = training('retinanet', shapes, tmp_path, micro_batches=0)
    times = measure(cfg, make_plan(cfg, 1))
    assert (len(times.micro_batches), times.step, times.evaluation) == (4, 0.0, None)


@pytest.fixture
def run_of_8(tmp_path):
    """The log of a run on 8 ranks: 2 s an update of 64 micro-batches."""
    s = SGD | dict(batch=128, per_epoch=917)
    return write(tmp_path / 'run', whole(s, time=2.0), s, text=config(s))


def test_times_of_an_earlier_run(hours, run_of_8):
    """Each of the 8 micro-batches of a rank took 0.25 s."""
    rows, printed = hours(
        *(LAMB, '--images', TRAIN2017, '--gpus', 1, 16, '--bandwidth', 1e6, '--like', run_of_8)
    )
    seconds = [rows[gpus]['update_seconds'] for gpus in (1, 16)]
    assert seconds == pytest.approx([16, 1], rel=2e-3)
    assert printed['source'] == f'--like {run_of_8}'
    assert 'evaluation is not included' in ' '.join(printed['assumptions'])


def test_a_spread_that_is_said_replaces_that_of_the_log(hours, run_of_8):
    """8 ranks of eight wait for 1.10 times the mean, 64 of one for 1.57 times."""
    rows, _ = hours(
        *(LAMB, '--images', TRAIN2017, '--gpus', 8, 64, '--bandwidth', 1e6),
        *('--like', run_of_8, '--spread', 0.2),
    )
    assert rows[8]['update_seconds'] == pytest.approx(2, rel=0.01)
    assert rows[64]['update_seconds'] == pytest.approx(0.25 / 1.10 * 1.57, rel=0.015)


@pytest.mark.parametrize(
    ('words', 'line'),
    [
        (
            ('--gpus', 1, 8),
            'Invalid --gpus=[1, 8]. Must be one number without --measure, --like or '
            '--images-per-second, which say the times.',
        ),
        (('--price', 2), 'Invalid --price=2.0. Must be left out without --measure, --like or'),
        (('--spread', 0.2), 'Invalid --spread=0.2. Must be left out without --measure, --like or'),
        (('--bandwidth', 25), 'Invalid --bandwidth=25.0. Must be left out without --measure,'),
        (('--images-per-second', 8), 'Invalid --spread=None. Must be given with --images-per-'),
        (('--images-per-second', 0, '--spread', 0), 'Invalid --images-per-second=0.0. Must be > 0'),
        (('--images-per-second', 'nan', '--spread', 0), '--images-per-second=nan. Must be > 0.'),
        (('--images-per-second', 8, '--spread', -0.1), 'Invalid --spread=-0.1. Must be >= 0.'),
        (
            ('--images-per-second', 8, '--spread', 20),
            'Invalid --spread=20.0. Must be at most 3, as',
        ),
        ((*SAID, '--bandwidth', 0), 'Invalid --bandwidth=0.0. Must be > 0.'),
        ((*SAID, '--price', -1), 'Invalid --price=-1.0. Must be >= 0.'),
        ((*SAID, '--measure'), '--measure and --images-per-second both say the times. Must be one'),
        (('--measure', '--spread', 0.2), 'Invalid --spread=0.2. Must be left out with --measure'),
        ((*SAID, '--gpus', 8, 128), '128 ranks are more than the 64 micro-batches of train_cfg.'),
        (('--like', 'nowhere'), 'work_dir=nowhere: no logs of a training there. Must be a work'),
    ],
)
def test_mistakes_are_told_in_one_line(tool, words, line):
    done = tool('plan.py', LAMB, '--images', TRAIN2017, *words)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.startswith('error: ') and len(done.stderr.splitlines()) == 1
    assert line in done.stderr


def test_a_run_without_times_is_refused_in_one_line(tool, tmp_path):
    folder = write(tmp_path / 'run', [], optimizer='SGD', ranks=8)
    done = tool('plan.py', LAMB, '--images', TRAIN2017, '--like', folder)
    line = f'error: --like {folder}: no times in its logs. Must be a run that trained.\n'
    assert (done.returncode, done.stderr) == (2, line)


def test_measuring_needs_the_data(tool, tmp_path):
    options = f'train_dataloader.dataset.data_root={tmp_path}/'
    done = tool('plan.py', LAMB, '--images', TRAIN2017, '--measure', '--cfg-options', options)
    assert done.returncode == 2
    assert 'instances_train2017.json: no such' in done.stderr.splitlines()[-1]


COLUMNS = [
    *('GPUs', 'micro-batches each', 'images/s', 'efficiency', 'update', 'epoch', 'evaluation'),
    *('total', 'GPU-hours', 'cost'),
]


def test_the_table(tool):
    words = ('--gpus', 8, 64, '--bandwidth', 1e6, '--price', 2.5, *SAID)
    done = tool('plan.py', LAMB, '--images', TRAIN2017, *words)
    head, _, *rows = [line.split('  ') for line in done.stdout.splitlines()[:4]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in (head, *rows)]
    # 2 s and 0.25 s an update; 11,004 are 6:06:48 and 0:45:51; 917 are 30:34 and 3:49.25.
    assert cells == [
        COLUMNS,
        '8|8|64|1.00|2 s|30 min 34 s|-|6 h 07 min|48.9|122.27'.split('|'),
        '64|1|512|1.00|0.25 s|3 min 49 s|-|45 min 51 s|48.9|122.27'.split('|'),
    ]
    text = done.stdout
    assert 'ring all-reduce: 176.7 MB at --bandwidth 1e+06 Gb/s take' in text
    assert 'the total is 11,004 updates; no start and no restart' in text
    assert text.rstrip().endswith('warnings         none')


VALUES = (lambda row: row.total_seconds / 3600, lambda row: row.gpu_hours)


@pytest.mark.parametrize('gpus', [(1, 64), (8,), (1, 2, 3, 4, 8, 64)])
def test_the_picture_shows_each_row_and_no_label_is_cut(gpus):
    cfg, plans = planned(*gpus)
    hours = estimate_hours(plans, Times('test', np.full(9, 0.25)), cfg, 10)
    figure = draw_hours(hours, 'mask-rcnn_r50_fpn_64xb2-lamb-1x_coco')
    figure.draw_without_rendering()
    for axes, value in zip(figure.axes, VALUES, strict=True):
        x, y = axes.lines[0].get_data()
        assert list(x) == list(gpus)
        assert list(y) == pytest.approx([value(row) for row in hours.rows])
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == len(gpus)
        for box in boxes:
            assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert not any(axes.get_legend().get_window_extent().overlaps(box) for box in boxes)
    whole_figure = figure.get_tightbbox()
    assert figure.bbox_inches.x0 <= whole_figure.x0 and whole_figure.x1 <= figure.bbox_inches.x1
    assert figure.bbox_inches.y0 <= whole_figure.y0 and whole_figure.y1 <= figure.bbox_inches.y1


def test_the_picture_is_a_file(tool, tmp_path):
    path = tmp_path / 'sub/hours.png'
    words = ('--images', TRAIN2017, '--gpus', 1, 8, '--plot', path)
    assert tool('plan.py', LAMB, *words, *SAID).returncode == 0
    picture = cv2.imread(str(path))
    assert picture.shape[1] > 1000 and picture.std() > 10
