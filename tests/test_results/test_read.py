"""Progress and end of runs, read from logs with known values."""

import json
import math

import pytest
from helpers.work_folders import (
    EMPTY,
    SGD,
    SHORT,
    diverged,
    evaluated,
    evaluation,
    stock_config,
    updates,
    whole,
    write,
)

from mmdet_largebatch import SettingError
from mmdet_largebatch.results import read_run


def test_later_starts_override_what_they_computed_again(tmp_path):
    """The first start ends at update 250. The second resumes at 100 and ends at 150, the third
    resumes at 100 and finishes: only updates to 100 count from the first two."""
    write(tmp_path, [*updates(SHORT, 1, 100, time=1.0), evaluation(1, 0.1, 0.1)], SHORT)
    first = [*updates(SHORT, 101, 250, time=1.0), evaluation(2, 0.2, 0.2)]
    write(tmp_path, first, SHORT, '20260102_030406')
    write(tmp_path, updates(SHORT, 101, 150, time=2.0), SHORT, '20260102_040000')
    between = read_run(tmp_path)
    assert [one.update for one in between.updates] == [50, 100, 150]
    assert [one.epoch for one in between.evaluations] == [1]
    assert (between.epochs_done, between.status) == (1, 'unfinished')

    third = [*updates(SHORT, 101, 200, time=4.0), evaluation(2, 0.25, 0.2)]
    third += [*updates(SHORT, 201, 300, time=4.0), evaluation(3, 0.3, 0.25)]
    write(tmp_path, third, SHORT, '20260103_000000')
    run = read_run(tmp_path)
    assert [one.update for one in run.updates] == [50, 100, 150, 200, 250, 300]
    assert [one.seconds for one in run.updates] == [1.0] * 2 + [4.0] * 4
    assert [one.box_ap for one in run.evaluations] == [0.1, 0.25, 0.3]
    assert (run.box_ap, run.mask_ap, run.status) == (0.3, 0.25, 'done')
    # 100 updates of 1 s, then 200 of 4 s. The median is 4 s.
    assert run.training_seconds == 900.0
    assert run.images_per_second == 16 / 4.0


def test_a_rollback_within_one_start(tmp_path):
    records = [*updates(SHORT, 1, 200), evaluation(1, 0.1, 0.1), *updates(SHORT, 101, 300)]
    run = read_run(write(tmp_path, [*records, evaluation(3, 0.3, 0.3)], SHORT, rollbacks=1))
    assert [one.update for one in run.updates] == [50, 100, 150, 200, 250, 300]
    assert run.status_text == 'done, 1 rollback'


def test_a_test_in_the_same_folder_is_no_start(tmp_path):
    write(tmp_path, whole(SHORT), SHORT)
    later = dict(SHORT, lr=9.0)
    write(tmp_path, [], later, '20260109_000000')
    write(tmp_path, [evaluation(0, 0.9, 0.9)], later, '20260110_000000')
    run = read_run(tmp_path)
    assert (run.lr, run.status, len(run.evaluations)) == (0.02, 'done', 3)


def test_a_stock_run_that_became_nan(tmp_path):
    losses = dict(loss=lambda update: math.nan if update > 120 else 1.0)
    records = [*updates(SHORT, 1, 300, **losses), dict(time=0.1, step=3)]
    run = read_run(write(tmp_path, records, SHORT, text=stock_config(SHORT)))
    assert (run.status, run.status_text) == ('nan', 'nan from update 150')
    assert (run.epochs_done, run.box_ap) == (3, None)


def test_a_loss_that_was_finite_again_is_not_nan(tmp_path):
    losses = dict(loss=lambda update: math.inf if update == 150 else 1.0)
    records = [*updates(SHORT, 1, 300, **losses), evaluation(3, 0.1, 0.1)]
    assert read_run(write(tmp_path, records, SHORT)).status == 'done'


def test_diverged_until_it_is_started_again(tmp_path):
    write(tmp_path, updates(SHORT, 1, 100), SHORT, ended=diverged(130))
    run = read_run(tmp_path)
    assert (run.status_text, run.epochs_done) == ('diverged at update 130', 1)
    write(tmp_path, updates(SHORT, 101, 150), SHORT, '20260103_000000')
    assert read_run(tmp_path).status == 'unfinished'


def test_diverged_before_anything_was_logged(tmp_path):
    run = read_run(write(tmp_path, [], SHORT, ended=diverged(1)))
    assert (run.status_text, run.epochs_done, run.training_seconds) == (
        'diverged at update 1',
        0,
        None,
    )


def test_preempted_unfinished_and_not_evaluated(tmp_path):
    ended = dict(how='preempted', update=150, epoch=1, message='Preempted.')
    run = read_run(write(tmp_path / 'a', updates(SHORT, 1, 150), SHORT, ended=ended))
    assert (run.status, run.epochs_done) == ('preempted', 1)
    run = read_run(write(tmp_path / 'b', updates(SHORT, 1, 150), SHORT))
    assert run.status == 'unfinished'
    # The last updates of the epoch are not logged: the checkpoint shows that the epoch ended.
    seldom = dict(SHORT, interval=40)
    line = 'Saving checkpoint at 3 epochs'
    run = read_run(write(tmp_path / 'c', updates(seldom, 1, 300), seldom, lines=[line]))
    assert (run.epochs_done, run.status_text) == (3, 'unfinished, last epoch not evaluated')
    text = stock_config(seldom).replace('val_dataloader = dict(batch_size=1)', '')
    records = updates(seldom, 1, 300)
    run = read_run(write(tmp_path / 'd', records, seldom, text=text, lines=[line]))
    assert run.status == 'done'


def test_what_the_logs_do_not_say_is_not_invented(tmp_path):
    folder = write(tmp_path, updates(SGD, 501, 600), text=stock_config(SGD))
    next(folder.glob('*/*.log')).unlink()
    with open(next(folder.glob('*/vis_data/scalars.json')), 'a') as file:
        file.write('{"loss": 0.5, "iter": 6')
    run = read_run(folder)
    assert (run.ranks, run.global_batch, run.images_per_second, run.seed) == ((), None, None, None)
    # The log of the first 500 updates is missing.
    assert run.training_seconds is None and len(run.updates) == 2
    assert [note.split(' in ')[0] for note in run.notes][0] == '1 line is not valid JSON'
    assert 'no text log' in run.notes[1]


def test_how_it_ended_is_read_from_the_record(tmp_path):
    """The text log does not say that the run stopped early after epoch 2."""
    folder = write(tmp_path, [*updates(SHORT, 1, 200), evaluation(2, 0.1, 0.1)], SHORT)
    assert read_run(folder).status == 'unfinished'
    ended = dict(how='stopped early', epoch=2, update=200, message='')
    record = next(folder.glob('2*_*')) / 'largebatch.json'
    record.write_text(json.dumps(dict(ended=ended)))
    run = read_run(folder)
    assert run.status_text == 'done, stopped early at epoch 2'
    assert (run.epochs_done, run.epochs, run.box_ap) == (2, 3, 0.1)
    # A resumed run is unfinished.
    write(tmp_path, updates(SHORT, 201, 250), SHORT, '20260103_000000')
    assert read_run(folder).status == 'unfinished'


def test_a_run_with_a_record_needs_no_text_log(tmp_path):
    """Another number of ranks and CocoMetric's line stand in the text log, and are not read."""
    record = dict(ranks=4, seed=7, updates_per_epoch=100, optimizer='LAMB', lr=0.3)
    record |= dict(global_batch=16, warmup_updates=20, ended=dict(how='done', epoch=3, update=300))
    records = [*updates(SHORT, 1, 300), evaluation(2, 0.1, 0.1), dict(time=0.1, step=3)]
    folder = write(tmp_path, records, SHORT, lines=[EMPTY, evaluated(2, '')], **record)
    run = read_run(folder)
    assert (run.ranks, run.seed, run.optimizer, run.lr, run.warmup_updates) == (
        (4,),
        7,
        'LAMB',
        0.3,
        20,
    )
    assert [one.box_ap for one in run.evaluations] == [0.1, None]
    assert run.status_text == 'done, the last evaluation found nothing'
    next(folder.glob('*/*.log')).unlink()
    assert read_run(folder) == run and run.notes == ()


def test_a_run_that_logged_nothing_is_done_all_the_same(tmp_path):
    folder = write(tmp_path, [], SHORT)
    ended = dict(how='done', epoch=3, update=300, message='')
    record = next(folder.glob('2*_*')) / 'largebatch.json'
    record.write_text(json.dumps(dict(ended=ended)))
    run = read_run(folder)
    assert (run.status_text, run.epochs_done, run.box_ap, run.training_seconds) == (
        'done',
        3,
        None,
        None,
    )


def test_early_stopping_under_mmdets_own_train_py(tmp_path):
    records = [*updates(SHORT, 1, 200), evaluation(2, 0.1, 0.1)]
    line = 'the monitored metric did not improve in the last 1 records. best score: 0.100. '
    run = read_run(write(tmp_path, records, SHORT, text=stock_config(SHORT), lines=[line]))
    assert run.status_text == 'done, stopped early at epoch 2'


def test_refusals_name_the_folder(tmp_path):
    with pytest.raises(SettingError, match=rf'work_dir={tmp_path}: no logs of a training there'):
        read_run(tmp_path)
    with pytest.raises(SettingError, match='work_dir=nowhere: no logs'):
        read_run('nowhere')
    text = "train_cfg = dict(type='IterBasedTrainLoop', max_iters=100)"
    with pytest.raises(SettingError, match='/a: its train_cfg.type=IterBasedTrainLoop has no'):
        read_run(write(tmp_path / 'a', updates(SGD, 1, 50), text=text))
    with pytest.raises(SettingError, match=r'/b/.*config.py: cannot be read'):
        read_run(write(tmp_path / 'b', updates(SGD, 1, 50), text='train_cfg = ('))
    folder = write(tmp_path / 'c', updates(SGD, 1, 50))
    next(folder.glob('*/vis_data/config.py')).unlink()
    with pytest.raises(SettingError, match='/c: logs without a config'):
        read_run(folder)
    text = stock_config(SGD, default_hooks=dict(logger=dict(log_metric_by_epoch=False)))
    with pytest.raises(SettingError, match='/d: its default_hooks.logger.log_metric_by_epoch'):
        read_run(write(tmp_path / 'd', updates(SGD, 1, 50), text=text))
