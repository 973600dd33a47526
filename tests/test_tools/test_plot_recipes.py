"""The figure and the table of recipes, from made-up rows."""

import pytest

from mmdet_largebatch.results.run_rows import Row, RowKey, add_row

SEEDS = (11, 12, 13)


def made_up(path):
    """Write eight recipes with three seeds each: APs that no training gave."""
    for lr, (optimizer, batch, warmup, ap) in enumerate(
        [
            *(('SGD', 16, 512, 0.89), ('SGD', 128, 64, 0.83), ('LARS', 16, 512, 0.9)),
            *(('LARS', 128, 64, 0.84), ('LAMB', 16, 512, 0.895), ('LAMB', 128, 64, 0.88)),
            *(('SGD', 128, 0, None), ('SGD', 128, 128, 0.3)),
        ],
        1,
    ):
        for seed in SEEDS:
            key = RowKey(optimizer, batch, lr / 100, warmup, seed, 12)
            updates = 12 * 8192 // batch
            if ap is None:
                row = Row(key, None, None, 90, 1.0, 'made-up', 'diverged', ())
            else:
                last = ap + (seed - 12) / 50
                rise = (
                    (0.2, 0.5, 0.7, 0.8, 0.98, 1) if batch == 128 else (0.7, 0.8, 0.85, 0.87, 1, 1)
                )
                curve = tuple((2 * i, last * x, last * x) for i, x in enumerate(rise, 1))
                row = Row(key, last, last - 0.03, updates, 9.5, 'made-up', 'done', curve)
            add_row(path, row)


def test_the_figure_and_the_table(tool, tmp_path):
    made_up(tmp_path / 'rows.csv')
    picture = tmp_path / 'docs/picture.png'
    done = tool('plot_recipes.py', tmp_path / 'rows.csv', '--out', picture)
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b'\x89PNG')
    rows = done.stdout.splitlines()[2:]
    assert len(rows) == 8
    # Mean of ap - 0.02, ap, ap + 0.02; their sample standard deviation is 0.02.
    assert rows[0] == (
        '| LAMB | 16 | 0.05 | 512 | 6,144 | 3 | 0.895 ± 0.020 | 0.875 to 0.915 | '
        '0.865 ± 0.020 | 0.845 to 0.885 |'
    )
    [failed] = [row for row in rows if row.startswith('| SGD | 128 | 0.07 | 0 ')]
    assert '| -, 3 failed | - |' in failed


def test_a_table_without_rows_is_refused(tool, tmp_path):
    done = tool('plot_recipes.py', tmp_path / 'none.csv', '--out', tmp_path / 'a.png')
    assert done.returncode == 2
    assert 'no rows there. Must be written by sweep.py.' in done.stderr


@pytest.mark.parametrize('name', ['picture.txt', 'picture'])
def test_another_kind_of_picture_is_refused(tool, tmp_path, name):
    made_up(tmp_path / 'rows.csv')
    done = tool('plot_recipes.py', tmp_path / 'rows.csv', '--out', tmp_path / name)
    assert done.returncode == 2
    assert 'Invalid --out=' in done.stderr
