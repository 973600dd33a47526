"""tools/benchmarks/planner.py runs to its end. What it finds is judged on an idle machine."""

import pytest


@pytest.mark.slow
@pytest.mark.multiprocess
def test_both_parts_print_predicted_and_found(tool, shapes):
    words = ('--shapes', shapes, '--updates', 2)
    done = tool('benchmarks/planner.py', *words, process=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines()[2:]]
    assert [row[:3] for row in rows] == [
        *(['sleeps', str(ranks), str(8 // ranks)] for ranks in (1, 2, 4, 8)),
        *(['measure', '2', str(share)] for share in (1, 4)),
    ]
    for *_, predicted, found, ratio, _ in rows:
        assert float(found) / float(predicted) == pytest.approx(float(ratio), rel=0.01)
