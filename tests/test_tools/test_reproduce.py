"""The commands of the small recipes, on 20 pictures, and the figure from their rows."""

import shutil
import sys

import pytest
from helpers.common import data_options

from mmdet_largebatch.results.run_rows import read_rows

pytestmark = pytest.mark.slow

# 20 pictures are one update of 128 an epoch; 8 epochs have quarter-runs of two.
SHORT = [
    'train_cfg.max_epochs=8',
    'train_cfg.val_interval=8',
    'default_hooks.lr.milestones=[4]',
    'default_hooks.lr.warmup_iters=1',
    'default_hooks.logger.interval=1',
]


def test_both_stages_and_the_figure(shapes, command, tool, tmp_path):
    results = tmp_path / 'results'
    settings = dict(
        OUT=str(tmp_path / 'work'),
        RESULTS=str(results),
        DATA=str(shapes),
        PYTHON=sys.executable,
        RECIPES='lamb_128',
        SEEDS='3 4',
        LRS='0.001 0.002',
        WARMUPS='0',
        OMP_NUM_THREADS='1',
    )
    options = ('--cfg-options', *data_options(shapes), *SHORT)
    done = command('tools/reproduce.sh', 'tune', *options, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('Winner by the worse of its two seeds: LR 0.00') == 1
    tuned = read_rows(results / 'shapes_small_tune.csv')
    assert {(key.optimizer, key.batch) for key in tuned} == {('LAMB', 128)}
    assert sum(key.epochs == 2 for key in tuned) >= 2
    # Of two LRs each is at an edge, so that the grid may grow to 3 or 4.
    full = sorted(key.seed for key in tuned if key.epochs == 8)
    assert full in ([3, 3, 4, 4], [3, 3, 3, 4, 4])

    # The work folders are lost: the table alone is enough.
    shutil.rmtree(tmp_path / 'work')
    before = (results / 'shapes_small_tune.csv').read_text()
    again = command('tools/reproduce.sh', 'tune', *options, **settings)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (results / 'shapes_small_tune.csv').read_text() == before
    assert not list((tmp_path / 'work').rglob('output.txt'))

    settings |= dict(RECIPES='lars_16 sgd_128_scaled', SEEDS='5')
    final = command('tools/reproduce.sh', 'final', *options, **settings)
    assert final.returncode == 0, final.stderr[-3000:]
    rows = read_rows(results / 'shapes_small.csv')
    expected = {('LARS', 16, 1.0, 1), ('SGD', 128, 0.16, 0)}
    assert {(key.optimizer, key.batch, key.lr, key.warmup) for key in rows} == expected
    picture = tmp_path / 'picture.png'
    drawn = tool('plot_recipes.py', results / 'shapes_small.csv', '--out', picture)
    assert drawn.returncode == 0, drawn.stderr
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_an_unknown_stage_is_refused(command, shapes):
    done = command('tools/reproduce.sh', 'all', DATA=str(shapes), PYTHON=sys.executable)
    assert (done.returncode, done.stderr) == (
        2,
        'usage: tools/reproduce.sh tune|final [OPTIONS OF tools/sweep.py]\n',
    )
