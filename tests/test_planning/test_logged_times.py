"""Times that are taken from logs, against the times that the logs were made of."""

import math
import random

import numpy as np
import pytest
from helpers.common import ROOT
from helpers.work_folders import SGD, config, evaluation, stock_config, updates, whole, write
from mmengine.config import Config
from mmengine.hub import get_config

from mmdet_largebatch import SettingError
from mmdet_largebatch.planning import make_plan, times_like

LAMB = ROOT / 'configs/mask_rcnn/mask-rcnn_r50_fpn_64xb2-lamb-1x_coco.py'
# 64 micro-batches of 2 on 8 ranks, a line each 50 updates. MMEngine averages 10 iterations.
RUN = SGD | dict(batch=128, per_epoch=1000, interval=50)
AVERAGED = 10


@pytest.fixture(scope='module')
def plan():
    return make_plan(Config.fromfile(LAMB), 8, 117_266)


def drawn(mean, cv, ranks, micro_batches, lines, seed):
    """Logged means of updates whose micro-batches have lognormal times, drawn rank by rank."""
    draw, found = random.Random(seed), []
    sigma = math.sqrt(math.log(1 + cv**2))
    mu = math.log(mean) - sigma**2 / 2
    for _ in range(lines * AVERAGED):
        each = [[] for _ in range(ranks)]
        for number in range(micro_batches):
            each[number % ranks].append(draw.lognormvariate(mu, sigma))
        found.append(max(map(sum, each)))
    return np.reshape(found, (lines, AVERAGED)).mean(1)


def logged(folder, means, s=RUN, **more):
    lines = [record for epoch in range(1, 13) for record in of_epoch(s, epoch)]
    for record, mean in zip(lines, means, strict=False):
        record['time'] = float(mean)
    return write(folder, lines[: len(means)], s, **more)


def of_epoch(s, epoch):
    return updates(s, (epoch - 1) * s['per_epoch'] + 1, epoch * s['per_epoch'])


@pytest.mark.parametrize(('cv', 'ranks'), [(0.1, 8), (0.3, 8), (0.3, 1), (0.2, 64)])
def test_the_mean_and_the_spread_of_a_log_are_found(plan, tmp_path, cv, ranks):
    means = drawn(0.1, cv, ranks, 64, 240, seed=2)
    folder = logged(tmp_path / 'run', means, RUN | dict(ranks=ranks))
    # So fast that the all-reduce takes no time.
    times = times_like(folder, plan, None, 1e6)
    mean, found = times.micro_batches.mean(), times.micro_batches.std()
    assert mean == pytest.approx(0.1, rel=0.06)
    assert found / mean == pytest.approx(cv, rel=0.3)


def test_a_slow_change_is_no_spread(plan, tmp_path):
    means = drawn(0.1, 0.2, 8, 64, 240, seed=3) * np.linspace(0.8, 1.2, 240)
    times = times_like(logged(tmp_path / 'run', means), plan, None, 1e6)
    assert times.micro_batches.std() / times.micro_batches.mean() == pytest.approx(0.2, rel=0.3)


def test_windows_that_overlap_are_not_taken_for_independent(plan, tmp_path):
    """A line each 10 updates, a mean over 50: of five lines one is read."""
    each = drawn(0.1, 0.2, 8, 64, 1200, seed=4)
    means = np.convolve(each, np.full(5, 0.2), 'valid')
    s = RUN | dict(interval=10)
    text = f'{config(s)}log_processor = dict(window_size=50)\n'
    times = times_like(logged(tmp_path / 'run', means, s, text=text), plan, None, 1e6)
    assert times.micro_batches.std() / times.micro_batches.mean() == pytest.approx(0.2, rel=0.3)


def test_the_all_reduce_of_the_run_is_taken_off(plan, tmp_path):
    """8 micro-batches of a rank, then 309 ms at 8 Gb/s less two thirds of a micro-batch."""
    ring = 2 * 7 / 8 * 8 * plan.gradient_bytes / 8e9
    update = 8 * 0.15 + ring - 0.15 * 2 / 3
    folder = logged(tmp_path / 'run', [update] * 100)
    times = times_like(folder, plan, None, 8)
    np.testing.assert_allclose(times.micro_batches, 0.15, rtol=1e-3)
    said = times_like(folder, plan, 0.2, 8)
    # A rank of 8 waits for 1.10 times the mean; the rest is less than above.
    assert 0.15 / 1.12 < said.micro_batches.mean() < 0.15 / 1.08


def test_a_log_of_stock_mmdetection(tmp_path):
    """8 ranks of 2 images, 0.5 s an iteration; the loop waits 0.1 s of it for data."""
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    plan = make_plan(cfg, 8, 117_266)
    lines = [record | dict(data_time=0.1) for record in whole(SGD) if 'iter' in record]
    lines.append(evaluation(12, 0.38, 0.34) | dict(time=0.2))
    folder = write(tmp_path / 'run', lines, text=stock_config(SGD))
    times = times_like(folder, plan, 0.0, 1e6, validation_images=5000)
    np.testing.assert_allclose(times.micro_batches, 0.5, rtol=1e-3)
    assert times.waiting == pytest.approx(0.2)
    assert (times.evaluation, times.validation_images) == (0.2, 5000)


@pytest.mark.parametrize(
    ('s', 'records', 'spread', 'gigabits', 'message'),
    [
        (RUN, 0, None, 100, 'no times in its logs. Must be a run that trained.'),
        (RUN, 4, None, 100, r'Invalid --spread=None. Must be given: the log has 4 separate means'),
        (RUN, 20, 0.2, 0.1, r'Invalid --bandwidth=0.1. Must be more: the all-reduce alone would'),
    ],
)
def test_logs_that_are_refused(plan, tmp_path, s, records, spread, gigabits, message):
    folder = logged(tmp_path / 'run', [0.8] * records, s, optimizer='SGD')
    with pytest.raises(SettingError, match=message):
        times_like(folder, plan, spread, gigabits)


def test_other_micro_batches_are_refused(plan, tmp_path):
    text = config(RUN).replace('batch_size=2', 'batch_size=4')
    folder = logged(tmp_path / 'run', [0.8] * 20, text=text)
    with pytest.raises(SettingError, match='have 4 images and those of the config 2. Must be as'):
        times_like(folder, plan, None, 100)


def test_several_numbers_of_ranks_are_refused(plan, tmp_path):
    folder = logged(tmp_path / 'run', [0.8] * 20)
    s = RUN | dict(ranks=4)
    write(folder, of_epoch(s, 2), s, timestamp='20260103_030405')
    with pytest.raises(SettingError, match='8, 4 ranks in its logs. Must be a run on one number'):
        times_like(folder, plan, None, 100)
