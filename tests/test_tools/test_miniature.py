"""The command that makes the six final lines of docs/results.md, cut to one update each."""

import csv
import sys

import pytest
from helpers.common import data_options

# The experiment is done; its tools are tested by test_sweep.py and test_reproduce.py.
pytestmark = pytest.mark.whole

# On the 20 pictures of the tests, an epoch is 2 updates of 16, or one of 128.
SHORT = ['default_hooks.lr.warmup_iters=1']


def test_the_six_final_lines_are_made_by_one_command(shapes, command, tmp_path):
    options = ('--updates', 1, '--cfg-options', *data_options(shapes), *SHORT)
    settings = dict(OUT=str(tmp_path), DATA=str(shapes), SEEDS='5', PYTHON=sys.executable)
    done = command('tools/miniature.sh', 'final', *options, **settings)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / 'final/results/results.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert {(row['optimizer'], row['global_batch']) for row in rows} == {
        (optimizer, batch) for optimizer in ('SGD', 'LARS', 'LAMB') for batch in ('16', '128')
    }
    assert {(row['seed'], row['status']) for row in rows} == {('5', 'done, cut at update 1')}
    assert (tmp_path / 'final/results/curves.png').read_bytes().startswith(b'\x89PNG')


def test_an_unknown_stage_is_refused(command, shapes):
    done = command('tools/miniature.sh', 'all', DATA=str(shapes), PYTHON=sys.executable)
    assert (done.returncode, done.stderr) == (
        2,
        'usage: tools/miniature.sh tune|final|more [OPTIONS OF tools/sweep.py]\n',
    )
