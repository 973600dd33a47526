"""`plan.py --gpus` with each source of times, as a user types it."""

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import pytest
from helpers.common import ROOT
from helpers.plans import LAMB, TRAIN2017
from helpers.work_folders import SGD, config, whole, write
from mmengine.config import Config

from mmdet_largebatch.planning import Times, draw_hours, estimate_hours, make_plan

# Most of them build the model of the recipe on COCO, for each number of GPUs.
pytestmark = pytest.mark.slow

STOCK = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
SAID = ('--images-per-second', 8, '--spread', 0)


@lru_cache
def planned(*gpus):
    """The recipe, and a plan of it for each number of GPUs."""
    cfg = Config.fromfile(ROOT / LAMB)
    return cfg, [make_plan(cfg, ranks, TRAIN2017) for ranks in gpus]


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
