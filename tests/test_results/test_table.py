"""The table: Markdown against CSV, missing values, seeds. Expected values are computed by hand."""

import csv

import pytest
from helpers.work_folders import SGD, diverged, evaluation, updates, whole, write

from mmdet_largebatch import SettingError
from mmdet_largebatch.results import read_run, write_table

SHORT = dict(SGD, epochs=1)


def one_epoch(work_dir, box, mask, s=SHORT, time=0.5, **more):
    return write(work_dir, [*updates(s, 1, 100, time=time), evaluation(1, box, mask)], s, **more)


def written(folder):
    """Return the rows of both tables as dicts of strings."""
    lines = (folder / 'results.md').read_text().splitlines()
    cells = [
        [cell.strip() for cell in line.strip('|').split(' | ')] for line in lines if line[:1] == '|'
    ]
    markdown = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    with open(folder / 'results.csv', newline='') as file:
        return markdown, list(csv.DictReader(file))


def seconds(text):
    hours, minutes, rest = text.split(':')
    return int(hours) * 3600 + int(minutes) * 60 + int(rest)


def test_markdown_has_the_numbers_of_the_csv_rounded(tmp_path):
    long = dict(SGD, lr=1.25e-3, optimizer='LAMB', batch=128)
    folders = [
        one_epoch(tmp_path / 'a', 0.7794, 0.0005, time=1 / 3),
        write(tmp_path / 'b', whole(long, time=0.2653), long),
        write(tmp_path / 'c', whole(long, epochs=5, time=61.7), dict(long, ranks=64)),
    ]
    write_table([read_run(folder) for folder in folders], tmp_path / 'out')
    markdown, exact = written(tmp_path / 'out')
    assert len(markdown) == len(exact) == 3
    for row, values in zip(markdown, exact, strict=True):
        same = dict(run='run', optimizer='optimizer', ranks='ranks', status='status')
        same['global batch'], same['warmup'] = 'global_batch', 'warmup_updates'
        assert {key: row[key] for key in same} == {key: values[to] for key, to in same.items()}
        assert float(row['LR']) == float(values['lr'])
        for key, to in (('box AP', 'box_ap'), ('mask AP', 'mask_ap')):
            assert row[key].split(' ')[0] == f'{float(values[to]):.3f}'
        assert abs(seconds(row['training time']) - float(values['training_seconds'])) <= 0.5
        rate = float(values['images_per_second'])
        assert float(row['images a second']) == pytest.approx(rate, rel=5e-3)
    # 100 updates of 1/3 s at batch 16: 33.3 s, 48 images/s. The CSV is not rounded.
    assert (markdown[0]['training time'], markdown[0]['images a second']) == ('0:00:33', '48')
    assert exact[0]['box_ap'] == '0.7794' and markdown[0]['box AP'] == '0.779'
    assert float(exact[0]['training_seconds']) == pytest.approx(100 / 3, rel=1e-12)
    # 500 updates of 61.7 s: 8 h 34 min 10 s.
    assert (markdown[2]['training time'], markdown[2]['epochs']) == ('8:34:10', '5 of 12')
    assert markdown[2]['box AP'].endswith(' (epoch 5)') and markdown[2]['ranks'] == '64'


def test_missing_values(tmp_path):
    folder = write(tmp_path / 'a|b', [], SHORT, ended=diverged(1))
    write_table([read_run(folder)], tmp_path / 'out')
    text = (tmp_path / 'out/results.md').read_text()
    row = r'| a\|b | SGD | 16 | 8 | 0.02 | 500 | 0 of 1 | - | - | - | - | diverged at update 1 |'
    assert row in [' '.join(line.split()) for line in text.splitlines()]
    _, [exact] = written(tmp_path / 'out')
    assert (exact['run'], exact['box_ap'], exact['training_seconds']) == ('a|b', '', '')
    assert (tmp_path / 'out/ap_by_epoch.csv').read_text() == 'run,epoch,box_ap,mask_ap\n'


def test_folders_of_one_name_are_told_apart(tmp_path):
    folders = [one_epoch(tmp_path / name / 'work', 0.1, 0.1) for name in ('x', 'y')]
    write_table([read_run(folder) for folder in folders], tmp_path / 'out')
    assert [row['run'] for row in written(tmp_path / 'out')[1]] == ['x/work', 'y/work']


def test_seeds_are_grouped_on_demand_alone(tmp_path):
    """0.1, 0.2 and 0.6 have the mean 0.3 and the sample standard deviation 0.07 ** 0.5."""
    runs = [
        read_run(one_epoch(tmp_path / f's{seed}', box, 0.5, dict(SHORT, seed=seed)))
        for seed, box in enumerate((0.1, 0.2, 0.6))
    ]
    stopped = dict(SHORT, seed=3)
    runs.append(
        read_run(write(tmp_path / 's3', updates(stopped, 1, 50), stopped, ended=diverged(51)))
    )
    runs.append(read_run(one_epoch(tmp_path / 'other', 0.9, 0.9, dict(SHORT, lr=0.04))))
    # A repeated seed is not another sample.
    runs.append(read_run(one_epoch(tmp_path / 'again', 0.1, 0.5)))
    write_table(runs, tmp_path / 'each')
    assert [row['run'] for row in written(tmp_path / 'each')[1]] == [
        *(f's{seed}' for seed in range(4)),
        'other',
        'again',
    ]
    write_table(runs, tmp_path / 'out', group_seeds=True)
    markdown, exact = written(tmp_path / 'out')
    assert [row['run'] for row in exact] == ['s0', 'other', 'again']
    assert (exact[0]['n'], exact[0]['seed']) == ('3', '0, 1, 2, 3')
    assert float(exact[0]['box_ap']) == pytest.approx(0.3)
    assert float(exact[0]['box_ap_std']) == pytest.approx(0.07**0.5)
    assert (markdown[0]['box AP'], markdown[0]['mask AP']) == ('0.300 ± 0.265', '0.500 ± 0.000')
    assert markdown[0]['status'] == '3 of 4 done, diverged at update 51'
    assert (markdown[1]['box AP'], markdown[1]['n'], exact[1]['box_ap_std']) == ('0.900', '1', '')


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(SettingError, match='--out /proc/out: cannot be written'):
        write_table([read_run(one_epoch(tmp_path / 'a', 0.1, 0.1))], '/proc/out')
