"""tools/benchmarks/planner.py runs to its end. What it finds is judged on an idle machine."""

import pytest
from helpers.forked import free_port

from mmdet_largebatch.planning import measured_times


@pytest.mark.slow
@pytest.mark.multiprocess
def test_both_parts_print_predicted_and_found(tool, shapes, monkeypatch):
    monkeypatch.setattr(measured_times, 'MICRO_BATCHES', 4)
    monkeypatch.setenv('PORT', str(free_port()))
    done = tool('benchmarks/planner.py', '--shapes', shapes, '--updates', 2, '--shares', 2)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith('| ')]
    rows = [line.strip('| ').split(' | ') for line in lines[2:]]
    assert [row[:3] for row in rows] == [
        *(['sleeps', str(ranks), str(8 // ranks)] for ranks in (1, 2, 4, 8)),
        ['measure', '2', '2'],
    ]
    for *_, predicted, found, ratio, _ in rows:
        assert float(found) / float(predicted) == pytest.approx(float(ratio), rel=0.01)
