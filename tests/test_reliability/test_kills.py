"""The short form of kills.py, whose result for 100 kills stands in docs/reliability.md."""

import json
import sys


def test_killed_20_times_it_ends_as_if_never_killed(command, shapes, tmp_path):
    words = ('--kills', 20, '--epochs', 24, '--data', shapes, '--out', tmp_path)
    paths = dict(PYTHONPATH='tests:tests/test_batching')
    done = command(sys.executable, 'tests/test_reliability/kills.py', *words, timeout=500, **paths)
    assert done.stdout, done.stderr[-3000:]
    found = json.loads(done.stdout)
    print(found)
    assert found['kills'] == 20 and found['in_a_save'] == 10
    # It was in a save that it was killed: a file that was never finished tells so.
    assert found['left_half_a_file'] > 0
    assert found['updates'] == found['updates_of_the_killed'] > 0
    assert found['weights_that_differ'] == []
    assert found['reads'] > 20 and found['reads_that_failed'] == []
    assert found['checksums_held'] == found['kills_with_checkpoint'] > 0
    assert found['half_files_left'] == []
