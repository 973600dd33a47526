"""TrustRatioHook against the equations of LAMB and LARS in NumPy float64."""

import json

import numpy as np
import pytest
import torch
from helpers.regression import Detector, toy_runner
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_largebatch import SettingError
from mmdet_largebatch.hooks import TrustRatioHook
from mmdet_largebatch.optimizers import _cpu_kernels, norms

WD = 0.01


class Watch(Hook):
    """Keeps each update's weights before it and gradients, and whether the step was observed."""

    priority = 'LOWEST'

    def __init__(self):
        self.weights, self.gradients, self.observed = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        weights = runner.model.named_parameters()
        self.weights.append({n: p.detach().double().numpy().copy() for n, p in weights})
        optimizer = runner.optim_wrapper.optimizer
        self.observed.append(getattr(optimizer, 'observer', None) is not None)

    def before_update(self, runner, outputs):
        grads = runner.model.named_parameters()
        self.gradients.append({n: p.grad.double().numpy().copy() for n, p in grads})

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        assert getattr(runner.optim_wrapper.optimizer, 'observer', None) is None


def train(tmp_path, optimizer, hook, updates=1, hooks=(), wrapper=OptimWrapper):
    watch = Watch()
    runner = toy_runner(
        tmp_path,
        Detector(),
        6,
        updates,
        wrapper=dict(
            type=wrapper,
            constructor='mmdet.MergedGroupsConstructor',
            optimizer=dict(lr=0.01, weight_decay=WD) | optimizer,
            paramwise_cfg=dict(custom_keys={'.bias': dict(decay_mult=0.0, lars_exclude=True)}),
        ),
        default_hooks={'trust_ratio': hook} if hook else {},
        hooks=[watch, *hooks],
        visualizer=dict(
            type='Visualizer',
            vis_backends=[
                dict(type='LocalVisBackend'),
                dict(type='LocalVisBackend', name='second', save_dir=f'{tmp_path}/second'),
            ],
        ),
    )
    runner.train()
    return watch


def written(path):
    """Lines of the local backend that hold what the hook wrote, by step."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line.pop('step'): line for line in lines if 'backbone/trust_ratio_min' in line}


def records(tmp_path):
    (path,) = tmp_path.glob('*/vis_data/scalars.json')
    return written(path)


def lamb_of_first_update(watch):
    """Ratio, ||p|| and ||u|| of each weight: step 1, so m / bc1 = g and v / bc2 = g * g."""
    grads = watch.gradients[0]
    c = max(1.0, np.sqrt(sum((g**2).sum() for g in grads.values())))
    for name, p in watch.weights[0].items():
        g = grads[name] / c
        u = g / (np.abs(g) + 1e-6) + WD * p
        yield name, (np.linalg.norm(p) / np.linalg.norm(u), np.linalg.norm(p), np.linalg.norm(u))


def lars_of_first_update(watch):
    for name, p in watch.weights[0].items():
        g = watch.gradients[0][name]
        norms = np.linalg.norm(p), np.linalg.norm(g + WD * p)
        ratio = 1e-3 * norms[0] / (np.linalg.norm(g) + WD * norms[0] + 1e-8)
        yield name, (ratio, *norms)


def expected(numbers):
    of = {'backbone': [], 'bbox_head': []}
    for name, triple in numbers:
        if name.endswith('weight'):
            of['backbone' if name.startswith('backbone') else 'bbox_head'].append(triple)
    return {
        f'{component}/{quantity}_{statistic.__name__}': statistic([row[i] for row in rows])
        for component, rows in of.items()
        for i, quantity in enumerate(('trust_ratio', 'weight_norm', 'update_norm'))
        for statistic in (min, np.median, max)
    }


@pytest.mark.parametrize('way', ['on a CPU', 'as on a GPU'])
@pytest.mark.parametrize('kind', ['LAMB', 'LARS'])
def test_what_is_written_are_the_optimizers_numbers(tmp_path, kind, way, monkeypatch):
    if way == 'as on a GPU':
        for module in (_cpu_kernels, norms):
            monkeypatch.setattr(module, 'is_on_host', lambda x: False)
    watch = train(
        tmp_path, dict(type=f'mmdet.{kind}'), dict(type='mmdet.TrustRatioHook', interval=1)
    )
    of_first_update = lamb_of_first_update if kind == 'LAMB' else lars_of_first_update
    numbers = expected(of_first_update(watch))
    found = records(tmp_path)[1]
    assert set(numbers) == set(found)
    for key, value in numbers.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key
    assert written(tmp_path / 'second' / 'scalars.json') == {1: found}


def test_only_at_its_interval(tmp_path):
    hook = dict(type='mmdet.TrustRatioHook', interval=3)
    watch = train(tmp_path, dict(type='mmdet.LAMB'), hook, updates=7)
    assert watch.observed == [False, False, True, False, False, True, False]
    assert list(records(tmp_path)) == [3, 6]


class Skip(OptimWrapper):
    """Skips the step of some updates, as fp16's loss scaling does."""

    skipped = (2,)
    count = 0

    def step(self, **kwargs):
        self.count += 1
        if self.count not in self.skipped:
            super().step(**kwargs)


def test_a_skipped_step_is_made_up_for(tmp_path):
    hook = dict(type='mmdet.TrustRatioHook', interval=2)
    train(tmp_path, dict(type='mmdet.LAMB'), hook, updates=5, wrapper=Skip)
    assert list(records(tmp_path)) == [3, 4]


def test_it_changes_nothing_in_the_training(tmp_path):
    hook = dict(type='mmdet.TrustRatioHook', interval=1)
    with_hook = train(tmp_path / 'with', dict(type='mmdet.LAMB'), hook, updates=4)
    without = train(tmp_path / 'without', dict(type='mmdet.LAMB'), None, updates=4)
    for ours, theirs in zip(with_hook.weights, without.weights, strict=True):
        assert all((ours[name] == theirs[name]).all() for name in ours)


class _CountReads(TorchDispatchMode):
    """Counts what a GPU would be waited for: numbers read, and copies between devices."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        reads = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten._to_copy.default)
        self.count += func in reads and args[0].dtype == torch.float32
        return func(*args, **(kwargs or {}))


def test_a_record_is_one_copy_whatever_it_holds(tmp_path, monkeypatch):
    """Of 0-d tensors, as on a GPU: they are stacked before one is read."""
    hook = TrustRatioHook(interval=1)
    p = torch.nn.Parameter(torch.ones(2))
    hook._names = {p: 'backbone.weight'}
    for _ in range(50):
        hook._observe(p, *torch.rand(3).unbind())
    with _CountReads() as reads:
        statistics = hook._statistics()
    assert len(statistics) == 9
    # `.cpu()` of a CPU's tensor copies nothing; the one is its conversion to float64.
    assert reads.count == 1


def test_an_optimizer_without_ratios_is_told_once(tmp_path):
    hook = dict(type='mmdet.TrustRatioHook', interval=1)
    train(tmp_path, dict(type='SGD'), hook)
    (log,) = tmp_path.glob('*/*.log')
    line = 'TrustRatioHook has nothing to write: SGD has no trust ratio, LAMB and LARS have.'
    assert log.read_text().count(line) == 1


@pytest.mark.parametrize('interval', [0, -1, 2.5, True, 'often'])
def test_a_wrong_interval(interval):
    with pytest.raises(SettingError, match=r'Invalid TrustRatioHook\.interval=.*>= 1\.'):
        TrustRatioHook(interval)
