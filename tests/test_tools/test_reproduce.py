"""The commands of the small recipes, on 20 pictures, and the figure from their rows."""

import shutil
import sys

import pytest
from helpers.common import data_options

from mmdet_largebatch.results.run_rows import read_rows

pytestmark = pytest.mark.slow

# 20 pictures are 2 updates of 16 and one of 128 an epoch; 4 epochs have quarter-runs of one.
SHORT = [
    'train_cfg.max_epochs=4',
    'train_cfg.val_interval=4',
    'default_hooks.lr.milestones=[2.5]',
    'default_hooks.logger.interval=1',
]


def test_both_stages_and_the_figure(shapes, command, tool, tmp_path):
    results = tmp_path / 'results'
    settings = dict(
        OUT=str(tmp_path / 'work'),
        RESULTS=str(results),
        DATA=str(shapes),
        PYTHON=sys.executable,
        SEEDS='3 4',
        LRS='0.001 0.002',
        WARMUPS='0',
        OMP_NUM_THREADS='1',
    )
    options = ('--cfg-options', *data_options(shapes), *SHORT)
    done = command('tools/reproduce.sh', 'tune', *options, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('Winner by the worse of its two seeds: LR 0.00') == 6
    tuned = read_rows(results / 'shapes_small_tune.csv')
    # Per recipe at least 2 quarter-runs, 2 full runs and 2 with the second seed.
    recipes = {(key.optimizer, key.batch) for key in tuned}
    assert recipes == {(name, batch) for name in ('SGD', 'LARS', 'LAMB') for batch in (16, 128)}
    for optimizer, batch in recipes:
        keys = [key for key in tuned if (key.optimizer, key.batch) == (optimizer, batch)]
        assert sum(key.epochs == 1 for key in keys) >= 2
        full = sorted(key.seed for key in keys if key.epochs == 4)
        # Of two LRs each is at an edge, so that the grid grows to 3 or 4.
        assert full in ([3, 3, 4, 4], [3, 3, 3, 4, 4])

    # The work folders are lost: the table alone is enough.
    shutil.rmtree(tmp_path / 'work')
    before = (results / 'shapes_small_tune.csv').read_text()
    again = command('tools/reproduce.sh', 'tune', *options, **settings)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (results / 'shapes_small_tune.csv').read_text() == before
    assert not list((tmp_path / 'work').rglob('output.txt'))

    options = (*options, 'default_hooks.lr.warmup_iters=1')
    final = command('tools/reproduce.sh', 'final', *options, **settings | dict(SEEDS='5'))
    assert final.returncode == 0, final.stderr[-3000:]
    assert len(read_rows(results / 'shapes_small.csv')) == 8
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
