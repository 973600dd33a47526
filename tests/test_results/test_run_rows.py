"""Rows of finished runs: read back as written, appended by several processes, refused if broken."""

import subprocess
import sys

import pytest
from helpers.work_folders import SGD, diverged, updates, whole, write
from mmengine.config import Config

from mmdet_largebatch import SettingError
from mmdet_largebatch.results import read_run
from mmdet_largebatch.results.run_rows import (
    RowKey,
    add_row,
    code_commit,
    read_rows,
    row_key,
    row_of,
)
from mmdet_largebatch.tuning.halving import FAILED, score

KEY = RowKey('SGD', 16, 0.02, 500, 0, 12)


def key_of(folder):
    return row_key(Config.fromfile(next(folder.glob('*/vis_data/config.py'))))


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    done = write(tmp_path / 'done', whole(SGD, ap=0.38))
    failed = write(tmp_path / 'failed', updates(SGD, 1, 150), ended=diverged(123))
    path = tmp_path / 'docs/rows.csv'
    for folder in (done, failed):
        key = key_of(folder)._replace(seed=int(folder == failed))
        add_row(path, row_of(read_run(folder), key, 'abc1234'))
    first, second = read_rows(path).values()
    assert first.key == KEY == key_of(done)
    # 12 epochs of 100 updates of 0.5 s. The last evaluation as `whole` makes it.
    assert (first.updates, first.minutes, first.status) == (1200, 10.0, 'done')
    assert [epoch for epoch, _, _ in first.ap_by_epoch] == list(range(1, 13))
    assert (first.box_ap, first.mask_ap) == first.ap_by_epoch[-1][1:] == (0.373, 0.343)
    assert (second.status, second.box_ap, second.updates) == ('diverged', None, 123)
    # Evaluated without metrics: nothing was detected.
    records = [*updates(SGD, 1, 1200), dict(time=0.1, step=12)]
    empty = write(tmp_path / 'empty', records, updates_per_epoch=100)
    row = row_of(read_run(empty), KEY, 'abc1234')
    assert (row.status, row.box_ap, score(row), score(second)) == ('done', 0.0, 0.0, FAILED)
    header = path.read_text().splitlines()[0]
    assert header.startswith('optimizer,batch,lr,warmup,seed,box_ap,mask_ap,updates,minutes,commit')


def test_a_row_replaces_the_row_with_its_key(tmp_path):
    run = read_run(write(tmp_path / 'run', whole(SGD)))
    path = tmp_path / 'rows.csv'
    for commit in ('one', 'two'):
        add_row(path, row_of(run, KEY, commit))
    assert [row.commit for row in read_rows(path).values()] == ['two']
    assert sorted(x.name for x in tmp_path.iterdir()) == ['rows.csv', 'run']


@pytest.mark.slow
def test_processes_append_at_once_and_no_row_is_lost(tmp_path):
    path = tmp_path / 'rows.csv'
    code = (
        'import sys\n'
        'from mmdet_largebatch.results.run_rows import Row, RowKey, add_row\n'
        'for seed in range(20):\n'
        "    key = RowKey('SGD', 16, 0.1 + int(sys.argv[1]), 0, seed, 12)\n"
        "    row = Row(key, 1 / 3, None, 9, 0.1, 'x', 'done', ((2, 1 / 3, None),))\n"
        '    add_row(sys.argv[2], row)\n'
    )
    started = [subprocess.Popen([sys.executable, '-c', code, str(x), path]) for x in range(3)]
    assert [process.wait() for process in started] == [0] * 3
    rows = read_rows(path)
    assert len(rows) == 60
    # Floats keep all digits.
    assert {row.box_ap for row in rows.values()} == {1 / 3}
    assert {row.ap_by_epoch for row in rows.values()} == {((2, 1 / 3, None),)}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('optimizer,lr\nSGD,1\n', r'its columns are .*Must be'),
        ('{header}\nSGD,16,high,0,0,,,1,,c,12,done,\n', 'line 2 is not valid .*high'),
        ('{header}\nSGD,16\n', 'line 2 is not valid'),
    ],
)
def test_another_file_is_refused_and_stays(tmp_path, text, message):
    path = tmp_path / 'rows.csv'
    header = (
        'optimizer,batch,lr,warmup,seed,box_ap,mask_ap,updates,minutes,commit,epochs,status,'
        'ap_by_epoch'
    )
    path.write_text(text.format(header=header))
    with pytest.raises(SettingError, match=message):
        read_rows(path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'train_cfg.max_updates': 5}, 'Invalid train_cfg.max_updates=5. Must be None'),
        ({'randomness': dict(seed=None)}, 'Invalid seed=None. Must be set in the config'),
    ],
)
def test_a_run_without_a_key_is_refused(tmp_path, changes, message):
    folder = write(tmp_path / 'run', whole(SGD))
    cfg = Config.fromfile(next(folder.glob('*/vis_data/config.py')))
    cfg.merge_from_dict(changes)
    with pytest.raises(SettingError, match=message):
        row_key(cfg)


def test_the_commit_is_that_of_the_repository():
    assert code_commit().removesuffix('-dirty').isalnum()
