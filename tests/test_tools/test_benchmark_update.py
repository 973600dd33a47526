"""tools/benchmarks/update.py: its comparisons, with a smaller update and one timed pair."""

import re

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('benchmark_modules')]


@pytest.fixture
def update(monkeypatch):
    """The benchmark, with updates of two micro-batches of one image."""
    import update

    monkeypatch.setattr(update, 'UNTIMED', 1)
    for part, compared in update.COMPARED.items():
        small = compared._replace(micro_batches=2, images=1)
        monkeypatch.setitem(update.COMPARED, part, small)
    return update


@pytest.mark.multiprocess
def test_a_row_of_the_table(update, capfd, shapes, tmp_path):
    update.measure_cost('exact_sum', 1, 2, shapes, tmp_path)
    row = capfd.readouterr().out.strip().splitlines()[-1]
    assert re.match(r'\| exact_sum \| 2 \| 1 \| \d+\.\d \| \d+\.\d \| \d\.\d{4} \(', row), row


def test_the_kinds_make_one_and_two_passes(update, monkeypatch, shapes, tmp_path):
    """The model computes the losses of two micro-batches 2 and 4 times."""
    from mmdet.models.detectors import ATSS
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    calls = []
    loss = ATSS.loss
    monkeypatch.setattr(ATSS, 'loss', lambda *args: calls.append(1) or loss(*args))
    passes = []
    for second in (False, True):
        cfg = update.config_of('means', shapes, tmp_path, second, 1)
        cfg.model.backbone.depth = 18
        cfg.model.neck.in_channels = [64, 128, 256, 512]
        runner = update.runner_of('means', cfg, second)
        calls.clear()
        runner.train_loop.run_iter(0, update.updates_data(runner, update.COMPARED['means'], 1))
        passes.append(len(calls))
    assert passes == [2, 4]


def test_the_kinds_measure_the_noise_scale_or_not(update, shapes, tmp_path):
    """Without the hook, with it, and where it is due."""
    from mmengine.registry import init_default_scope

    from mmdet_largebatch.hooks import NoiseScaleHook
    from mmdet_largebatch.utils.runner import find_hook

    init_default_scope('mmdet')
    cfg = update.config_of('noise_idle_exact', shapes, tmp_path, False, 1)
    assert cfg.train_cfg.exact_sum
    runner = update.runner_of('noise_idle_exact', cfg, False)
    data = update.updates_data(runner, update.COMPARED['noise_idle'], 3)
    found = []
    for part, second in (('noise_idle', False), ('noise_due', False), ('noise_due', True)):
        update.set_noise_hook(part, runner, second)
        runner.train_loop.run_iter(0, data)
        hook = find_hook(runner, NoiseScaleHook)
        found.append(None if hook is None else len(hook.state_dict()['measured']))
    assert found == [None, 0, 1]
