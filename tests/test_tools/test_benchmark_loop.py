"""The part of tools/benchmarks/loop.py that resumes, on an epoch of 8 updates in place of 917."""

import pytest
from helpers.common import ROOT


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools/benchmarks'))
    import resume

    for name, value in dict(IMAGES=4, TIMES=4, UPDATES=8, DONE=6).items():
        monkeypatch.setattr(resume, name, value)
    return resume


@pytest.mark.parametrize(
    ('loop', 'read', 'read_new'),
    [
        # Pictures read until the first update, and until the first on new pictures: 2 an update,
        # and EpochBasedTrainLoop does the 6 updates before again.
        ('GlobalBatchTrainLoop', 2, 2),
        ('EpochBasedTrainLoop', 2, 14),
        ('IterBasedTrainLoop', 2, 2),
    ],
)
@pytest.mark.slow
def test_each_loop_resumes(module, shapes, tmp_path, loop, read, read_new):
    first, new = module.resume(loop, 0, shapes, tmp_path)
    assert (first[1], new[1]) == (read, read_new)
