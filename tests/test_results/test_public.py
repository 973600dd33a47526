"""A COCO run among public trainings: withheld trainings are placed where counting places them.

public_batch_128.csv holds the public trainings at batch 128. Three are withheld from the table and
compared with it as runs of this package.
"""

import csv
import re
from pathlib import Path

import pytest
from helpers.tools import run_here
from helpers.work_folders import SGD, evaluation, stock_config, updates, whole, write
from test_figures import assert_readable

from mmdet_largebatch import SettingError
from mmdet_largebatch.results import read_run
from mmdet_largebatch.results.public import (
    batches_figure,
    compare,
    nearest_batch,
    public_figure,
    public_report,
    read_public,
)

SOURCE = Path(__file__).with_name('public_batch_128.csv')
# Two whose percentile differs from epoch to epoch, and the lowest.
WITHHELD, LOWEST = (4, 44, 24), 24
COCO = dict(
    model=dict(type='MaskRCNN', backbone=dict(type='ResNet', depth=50)),
    val_evaluator=dict(type='CocoMetric', ann_file='data/annotations/instances_val2017.json'),
)
# 64 ranks of 2 images.
LARGE = dict(SGD, ranks=64, epochs=14)


def source_rows():
    """Return the comment with the heading, and the rows."""
    lines = SOURCE.read_text().splitlines(keepends=True)
    return lines[:3], lines[3:]


def aps_of(row):
    """Return box and mask AP of each epoch."""
    return [tuple(map(float, pair.split('/'))) for pair in next(csv.reader([row]))[3].split()]


def coco_run(folder, aps, s=LARGE):
    records = [
        record
        for epoch, (box, mask) in enumerate(aps, 1)
        for record in [
            *updates(s, (epoch - 1) * 100 + 1, epoch * 100),
            evaluation(epoch, box, mask),
        ]
    ]
    return read_run(write(folder, records, s, text=stock_config(s, **COCO)))


@pytest.fixture(scope='module')
def table(tmp_path_factory):
    """The table made by the tool without the withheld trainings."""
    folder = tmp_path_factory.mktemp('public')
    head, rows = source_rows()
    kept = [row for index, row in enumerate(rows) if index not in WITHHELD]
    # A training in two releases counts once.
    (folder / 'runs.csv').write_text(''.join([*head, *kept, kept[0].replace('v', 'again v', 1)]))
    words = (folder / 'runs.csv', '--out', folder / 'table.csv', '--plot', folder / 'table.png')
    assert run_here('make_public_table.py', *words).returncode == 0
    assert (folder / 'table.png').read_bytes().startswith(b'\x89PNG')
    return read_public(folder / 'table.csv')


def test_withheld_trainings_are_placed_where_counting_places_them(table, tmp_path):
    _, rows = source_rows()
    others = [aps_of(row) for index, row in enumerate(rows) if index not in WITHHELD]
    assert len(others) == 78
    for index in WITHHELD:
        aps = aps_of(rows[index])
        lines = compare(coco_run(tmp_path / str(index), aps), table)
        assert len(lines) == 14
        for epoch, (line, (box, _)) in enumerate(zip(lines, aps, strict=True), 1):
            assert line.startswith(f'epoch {epoch}: box AP {box:.3f}, ')
            assert line.endswith(' percentile of 78 public trainings at batch 128')
            below = 100 * sum(other[epoch - 1][0] < box for other in others) / 78
            above = 100 * sum(other[epoch - 1][0] > box for other in others) / 78
            # Of 78 values, 4 lie outside the 5th and the 95th percentile.
            if 'below the band' in line:
                assert below <= 100 * 4 / 78
            elif 'above the' in line:
                assert above <= 100 * 4 / 78
            else:
                place = int(re.search(r'the (\d+)\w\w percentile', line)[1])
                # The tool interpolates between quantiles that are 20 and 25 apart.
                assert below - 7 <= place <= 100 - above + 7
            assert 'below the band' in line or index != LOWEST


def test_the_table_of_the_package_holds_all_of_them():
    """Expected medians and counts: the summary that came with the logs, to 3 decimals."""
    table = read_public().set_index(['global_batch', 'epoch'])
    medians = {8: (0.207, 0.243, 0.283, 0.301), 96: (0.171, 0.229, 0.270, 0.297)}
    medians |= {128: (0.153, 0.216, 0.262, 0.290), 256: (0.071, 0.182, 0.231, 0.289)}
    counts = {8: 5, 96: 365, 128: 81, 256: 59}
    for batch, expected in medians.items():
        rows = [table.loc[batch, epoch] for epoch in (1, 2, 4, 8)]
        assert [row.box_ap_50 for row in rows] == pytest.approx(list(expected), abs=6e-4)
        assert [row.trainings for row in rows] == [counts[batch]] * 4
    _, rows = source_rows()
    # The 41st of 81 is the median.
    third = sorted(aps_of(row)[2][1] for row in rows)
    assert table.loc[128, 3].mask_ap_50 == third[40]
    # The 5th and the 95th percentile: 4 of 80 steps from either end.
    assert (table.loc[128, 3].mask_ap_5, table.loc[128, 3].mask_ap_95) == (third[4], third[76])


def test_the_nearest_batch_is_that_of_the_nearest_ratio(tmp_path):
    for ranks, batch in ((1, 8), (8, 8), (64, 128), (90, 144), (200, 272)):
        s = dict(LARGE, ranks=ranks, epochs=1)
        run = coco_run(tmp_path / str(ranks), [(0.1, 0.1)], s)
        assert (run.global_batch, nearest_batch(run, read_public())) == (2 * ranks, batch)


def test_runs_are_drawn_over_the_bands_of_their_batches(table, tmp_path):
    runs = [coco_run(tmp_path / 'a', aps_of(source_rows()[1][4]))]
    runs.append(coco_run(tmp_path / 'b', [(0.2, 0.2), (0.25, 0.24)], dict(LARGE, ranks=8)))
    figure = public_figure(runs, read_public())
    assert_readable(figure)
    assert_readable(batches_figure(read_public()))
    titles = [axes.get_title() for axes in figure.axes]
    # A row for each batch, with box and mask AP.
    assert (
        titles[::2]
        == titles[1::2]
        == [
            '5 public trainings at batch 8',
            '81 public trainings at batch 128',
        ]
    )
    [line] = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[1, 0.2], [2, 0.25]]
    # The bands from the 5th to the 95th and from the 25th to the 75th percentile.
    assert len(figure.axes[0].collections) == 2


def test_epochs_without_public_trainings_are_left_out(table, tmp_path):
    s = dict(LARGE, epochs=16)
    lines = compare(coco_run(tmp_path / 'a', [(0.2, 0.2)] * 16, s), table)
    assert len(lines) == 14
    run = coco_run(tmp_path / 'b', [], dict(s, epochs=1))
    write(tmp_path / 'b', updates(s, 1, 100), s, '20260103_000000', text=stock_config(s, **COCO))
    assert compare(read_run(run.work_dir), table) == [
        'no box AP in epochs 1 to 14, which public trainings have'
    ]


def test_what_is_not_mask_rcnn_r50_on_coco_is_refused(tmp_path):
    run = read_run(write(tmp_path / 'shapes', whole(SGD)))
    message = f'--public: work_dir={tmp_path}/shapes cannot be compared. Must be a Mask R-CNN R50'
    with pytest.raises(SettingError, match=message):
        public_report([run], tmp_path / 'public.png')
    assert not (tmp_path / 'public.png').exists()
    for key, value in (('type', 'RetinaNet'), ('backbone', dict(type='ResNet', depth=101))):
        other = dict(COCO, model=dict(COCO['model'], **{key: value}))
        text = stock_config(LARGE, **other)
        run = read_run(write(tmp_path / key, whole(LARGE), LARGE, text=text))
        with pytest.raises(SettingError, match='Must be a Mask R-CNN R50 evaluated on COCO'):
            public_report([run], tmp_path / 'public.png')


def test_the_tool_places_a_run_and_draws_it(tmp_path, tool):
    run = coco_run(tmp_path / 'lamb', aps_of(source_rows()[1][LOWEST]))
    words = (run.work_dir, '--public', '--out', tmp_path / 'out')
    done = tool('results.py', *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[3:5] == ['lamb', lines[4]] and len(lines) == 3 + 1 + 14
    place = 'below the band: under the 5th percentile of 81 public trainings at batch 128'
    assert lines[4].endswith(place)
    assert (tmp_path / 'out/public.png').read_bytes().startswith(b'\x89PNG')
    shapes = write(tmp_path / 'shapes', whole(SGD))
    words = (run.work_dir, shapes, '--public', '--out', tmp_path / 'none')
    done = tool('results.py', *words)
    assert (done.returncode, done.stdout) == (2, '') and not (tmp_path / 'none').exists()
    assert done.stderr.startswith(f'error: --public: work_dir={shapes} cannot be compared.')
    assert len(done.stderr.splitlines()) == 1
