"""The commands of the small recipes, on 20 pictures, and the figure from their rows."""

import shutil
import sys
from pathlib import Path

import pytest
from helpers.common import data_options

from mmdet_largebatch.results.run_rows import Row, RowKey, add_row, read_rows

pytestmark = pytest.mark.slow

# 20 pictures are one update of 128 an epoch; 4 epochs have quarter-runs of one update. Smaller
# pictures take as many steps.
SHORT = [
    'train_cfg.max_epochs=4',
    'train_cfg.val_interval=4',
    'train_dataloader.dataset.pipeline.2.scale=(32,32)',
    'val_dataloader.dataset.pipeline.1.scale=(32,32)',
    'default_hooks.lr.milestones=[]',
    'default_hooks.lr.warmup_iters=1',
    'default_hooks.logger.interval=1',
]


def tuned_row(lr, seed, epochs, ap):
    """A run of `lamb_128` that another machine has finished."""
    key = RowKey('LAMB', 128, lr, 0, seed, epochs)
    return Row(key, ap, ap, epochs, 0.1, 'unknown', 'done', ((epochs, ap, ap),))


# A quarter-run has 1 epoch, a full run 4. The best LR, 0.002, is at the edge, so that the grid gets
# 0.004; of the full runs the best two are 0.004 and 0.001.
ELSEWHERE = [
    *(tuned_row(0.001, 3, 1, 0.3), tuned_row(0.002, 3, 1, 0.4)),
    *(tuned_row(0.001, 3, 4, 0.6), tuned_row(0.004, 3, 4, 0.7)),
    tuned_row(0.001, 4, 4, 0.5),
]
# What is left, one of each stage: these learn nothing.
HERE = {(0.004, 3, 1), (0.002, 3, 4), (0.004, 4, 4)}


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
    for row in ELSEWHERE:
        add_row(results / 'shapes_small_tune.csv', row)
    done = command('tools/reproduce.sh', 'tune', *options, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert '-00:00' not in done.stderr
    # Its second seed fails, and the winner is the other.
    assert 'Winner by the worse of its two seeds: LR 0.001, warmup 0.\n' in done.stdout
    assert 'LRs added beyond the edge of the grid: 0.004.\n' in done.stdout
    tuned = read_rows(results / 'shapes_small_tune.csv')
    assert {(key.optimizer, key.batch) for key in tuned} == {('LAMB', 128)}
    trained = set(tuned) - {row.key for row in ELSEWHERE}
    assert {(key.lr, key.seed, key.epochs) for key in trained} == HERE
    assert {(tuned[key].status, tuned[key].updates) for key in trained} == {
        ('done', 1),
        ('done', 4),
    }

    # The work folders are lost: the table alone is enough.
    shutil.rmtree(tmp_path / 'work')
    before = (results / 'shapes_small_tune.csv').read_text()
    again = command('tools/reproduce.sh', 'tune', *options, **settings)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (results / 'shapes_small_tune.csv').read_text() == before
    assert not list((tmp_path / 'work').rglob('output.txt'))

    settings |= dict(SEEDS='5')
    final = command('tools/reproduce.sh', 'final', *options, **settings)
    assert final.returncode == 0, final.stderr[-3000:]
    rows = read_rows(results / 'shapes_small.csv')
    expected = {('LAMB', 128, 0.01, 1)}
    assert {(key.optimizer, key.batch, key.lr, key.warmup) for key in rows} == expected
    picture = tmp_path / 'picture.png'
    drawn = tool('plot_recipes.py', results / 'shapes_small.csv', '--out', picture)
    assert drawn.returncode == 0, drawn.stderr
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_the_final_runs_are_six_recipes_and_two_scaled_ones(command, shapes):
    """Its commands are printed in place of being run."""
    done = command('tools/reproduce.sh', 'final', PYTHON='echo', DATA=str(shapes))
    assert done.returncode == 0, done.stderr
    lines = [x.split() for x in done.stdout.splitlines() if x.startswith('tools/sweep.py')]
    found = {}
    for line in lines:
        assert line[line.index('--seeds') + 1 :][:3] == ['11', '12', '13']
        lr = line[line.index('--lr') + 1 :] if '--lr' in line else []
        found[Path(line[line.index('--work-dir') + 1]).name] = Path(line[1]).name, *lr[:3:2]
    recipe = 'mask-rcnn_r18_fpn_{}xb16-{}-1x_shapes.py'
    expected = {
        f'{name}_{16 * ranks}': (recipe.format(ranks, name),)
        for name in ('sgd', 'lars', 'lamb')
        for ranks in (1, 8)
    }
    scaled = recipe.format(8, 'sgd'), '0.16'
    assert found == expected | dict(
        sgd_128_scaled=(*scaled, '0'), sgd_128_scaled_warmup=(*scaled, '64')
    )


def test_an_unknown_stage_is_refused(command, shapes):
    done = command('tools/reproduce.sh', 'all', DATA=str(shapes), PYTHON=sys.executable)
    assert (done.returncode, done.stderr) == (
        2,
        'usage: tools/reproduce.sh tune|final [OPTIONS OF tools/sweep.py]\n',
    )
