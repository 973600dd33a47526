"""NoiseScaleHook against gradients of micro-batches in float64. An update has 12 points."""

import json
import re

import numpy as np
import pytest
import torch
from helpers import noise_runs
from helpers.common import CUT, ROOT, data_options
from helpers.cpu_amp import CPUAmp
from helpers.divergence import Bad, Fragile
from helpers.forked import run_apart
from helpers.noise_runs import ManyPoints, MicroBatches, noise_runner, written
from helpers.regression import Detector, Regression, every_second_step
from helpers.small_training import NanOnce, log_of
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop

from mmdet_largebatch import SettingError
from mmdet_largebatch.global_batch.noise_scale import noise_scale
from mmdet_largebatch.hooks import NoiseScaleHook
from mmdet_largebatch.hooks import noise_scale_hook as module
from mmdet_largebatch.planning.dry_runner import dry_run
from mmdet_largebatch.utils.runner import find_hook

SHAPES = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


def state_of(runner):
    return find_hook(runner, NoiseScaleHook).state_dict()


def updates_of(runner):
    return [update for update, _ in state_of(runner)['measured']]


def terms_of(weights, batches):
    """tr Sigma and |G|^2 of all parameters, of the backbone and of the head, in float64.

    By the covariance: tr Sigma / b is the sample variance of the micro-batches' gradients, and
    |mean|^2 is |G|^2 + tr Sigma / (b K).
    """
    model = Detector().double()
    model.load_state_dict(weights)
    rows = []
    for x, y in batches:
        gradients = torch.autograd.grad(model(x, y)['loss'], list(model.parameters()))
        rows.append(torch.cat([g.flatten() for g in gradients]))
    g, K, b = torch.stack(rows).numpy(), len(rows), len(batches[0][0])
    traces, mean = b * g.var(0, ddof=1), g.mean(0)
    squares = mean**2 - traces / (b * K)
    head = 5  # Its weights and its bias are the last parameters.
    parts = (slice(None), slice(None, -head), slice(-head, None))
    return [(traces[part].sum(), squares[part].sum()) for part in parts]


@pytest.mark.parametrize('micro_batch', [2, 6])
@pytest.mark.parametrize('exact', [False, True])
def test_what_is_written(tmp_path, exact, micro_batch):
    noted = MicroBatches()
    runner = noise_runner(
        tmp_path,
        dict(interval=2, window=8),
        micro_batch=micro_batch,
        epochs=1,
        data=dict(dataset=ManyPoints()),
        train_cfg=dict(exact_sum=exact),
        hooks=[noted],
    )
    runner.train()
    found = written(tmp_path)
    assert list(found) == list(range(2, 21, 2))
    prefixes = ('', 'backbone/', 'bbox_head/')
    for update, scalars in found.items():
        now = terms_of(noted.weights[update - 1], noted.batches[update - 1])
        for prefix, (variance, square) in zip(prefixes, now, strict=True):
            # Both are differences of mean squares that gradients in float32 give to some 1e-7.
            error = 1e-6 * (square + variance / micro_batch)
            close = pytest.approx(variance, rel=1e-5, abs=micro_batch * error)
            assert scalars[f'{prefix}gradient_variance'] == close
            assert scalars[f'{prefix}gradient_square'] == pytest.approx(square, rel=1e-5, abs=error)
    # The newest eight of updates 2, 4, ..., 20.
    terms = np.array([terms_of(noted.weights[i], noted.batches[i]) for i in range(5, 20, 2)])
    expected = {
        f'{prefix}{name}': value
        for part, prefix in enumerate(prefixes)
        for name, value in noise_scale(*terms[:, part].T, micro_batch).scalars().items()
    }
    scales = {name: value for name, value in found[20].items() if 'noise_scale' in name}
    assert 'backbone/noise_scale' in scales and scales == pytest.approx(expected, rel=1e-3)


def test_the_log_has_a_line_for_each(tmp_path):
    noise_runner(tmp_path, epochs=1, data=dict(dataset=ManyPoints())).train()
    lines = re.findall(r'INFO - (noise scale .*)', log_of(tmp_path))
    assert len(lines) == 20
    assert lines[0].startswith('noise scale unknown: ')
    size = r'(> [\d.,]+ images|[\d.,]+ images \([\d.,]+ to [\d.,]+\))'
    worth = r'an image at batch 12 is worth (over )?[01]\.\d\d of one at a small batch; '
    assert re.fullmatch(rf'noise scale {size}: {worth}(over )?[01]\.\d\d at 48', lines[-1])


@pytest.mark.multiprocess
def test_the_same_digits_on_1_2_and_4_processes(tmp_path):
    """4 ranks have 2, 2, 1 and 1 of 6 micro-batches. The numbers are compared as they are."""
    done = run_apart(noise_runs.main, tmp_path / 'out', 1, 2, 4)
    assert done.returncode == 0, done.stdout[-3000:]
    scalars = [written(tmp_path / f'out.{ranks}') for ranks in (1, 2, 4)]
    assert len(scalars[0]) == 6 and scalars[0] == scalars[1] == scalars[2]
    states = [json.loads(path.read_text()) for path in tmp_path.glob('*.json')]
    assert len(states) == 1 + 2 + 4 and all(state == states[0] for state in states)


def test_loss_scaling_and_clipping_change_no_digit(tmp_path):
    """The weights of the first update are the same; a scale of 2^10 rounds nothing."""
    found = {}
    for name, wrapper in dict(
        plain=dict(type=CPUAmp, init_scale=1.0),
        scaled=dict(type=CPUAmp, init_scale=2.0**10),
        clipped=dict(type=CPUAmp, init_scale=2.0**10, clip_grad=dict(max_norm=1e-3)),
    ).items():
        for exact in (False, True):
            folder = tmp_path / f'{name}_{exact}'
            settings = dict(wrapper=wrapper, train_cfg=dict(exact_sum=exact))
            noise_runner(folder, epochs=1, **settings).train()
            found[name, exact] = written(folder)[1]
    for exact in (False, True):
        assert found['plain', exact]['gradient_variance'] > 0
        assert found['plain', exact] == found['scaled', exact] == found['clipped', exact]


def bad_runner(folder, **more):
    """The gradients of update 4 are not finite, and the scaler skips it."""
    return noise_runner(
        folder,
        dict(interval=2, window=3),
        Fragile(),
        epochs=9,
        hooks=[Bad(4, 'gradient', float('inf'))],
        wrapper=dict(type=CPUAmp, init_scale=4.0, optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='mmdet.AtomicCheckpointHook', interval=1)),
        **more,
    )


@pytest.mark.parametrize('exact', [False, True])
def test_resumed_it_goes_on_as_if_never_stopped(tmp_path, exact):
    """Stopped after update 4, which was due and could not be measured: update 5 is."""
    settings = dict(exact_sum=exact)
    whole = bad_runner(tmp_path / 'whole', train_cfg=settings)
    whole.train()
    assert updates_of(whole) == [5, 6, 8]
    cut = bad_runner(tmp_path / 'cut', train_cfg=settings | dict(max_updates=4))
    cut.train()
    assert updates_of(cut) == [2] and state_of(cut)['due']
    resumed = bad_runner(tmp_path / 'cut', train_cfg=settings, resume=True)
    resumed.train()
    assert state_of(resumed) == state_of(whole)
    assert list(written(tmp_path / 'whole')) == [2, 5, 6, 8]
    assert written(tmp_path / 'cut') == written(tmp_path / 'whole')


def test_measurements_of_other_micro_batches_are_dropped(tmp_path):
    checkpoint = dict(checkpoint=dict(type='mmdet.AtomicCheckpointHook', interval=1))
    noise_runner(tmp_path, epochs=3, default_hooks=checkpoint).train()
    settings = dict(micro_batch=3, epochs=5, default_hooks=checkpoint, resume=True)
    runner = noise_runner(tmp_path, **settings)
    runner.train()
    assert updates_of(runner) == [4, 5]
    assert 'begins anew: the micro-batches have changed' in log_of(tmp_path)


def test_updates_that_are_rolled_back_are_measured_once(tmp_path):
    """Update 5 is measured, then its loss is found to be NaN: back to the checkpoint at 4."""
    hooks = dict(
        checkpoint=dict(type='mmdet.AtomicCheckpointHook', interval=2),
        lr=dict(type='mmdet.WarmupStepLRHook', warmup_iters=0, milestones=[]),
        divergence=dict(type='mmdet.DivergenceHook', rollbacks=1, lr_factor=1.0),
    )
    runner = noise_runner(tmp_path / 'a', epochs=8, default_hooks=hooks, hooks=[NanOnce(5)])
    runner.train()
    assert 'Rollback 1 of 1' in log_of(tmp_path / 'a')
    plain = noise_runner(tmp_path / 'b', epochs=8, default_hooks=hooks)
    plain.train()
    assert updates_of(plain) == list(range(1, 9))
    assert state_of(runner) == state_of(plain)


def test_an_update_whose_micro_batches_are_not_full_is_passed_over(tmp_path):
    """Of 12 points in 4 micro-batches of 2, the second update of an epoch has 4 of one point."""
    runner = noise_runner(tmp_path, dict(interval=2), epochs=4, train_cfg=dict(global_batch_size=8))
    runner.train()
    # Due at 2, 4, 6 and 8.
    assert updates_of(runner) == [3, 5, 7]


@pytest.mark.parametrize('exact', [False, True])
def test_gradients_that_a_step_left_out_are_not_measured(tmp_path, monkeypatch, exact):
    """Every second update makes a step, with the gradients of two."""
    monkeypatch.setattr(Regression, 'train_step', every_second_step)
    settings = dict(model=Regression(), epochs=5, train_cfg=dict(exact_sum=exact))
    runner = noise_runner(tmp_path, dict(interval=2), **settings)
    runner.train()
    # Due at 2 and 4.
    assert updates_of(runner) == [3, 5]


@pytest.mark.parametrize('exact', [False, True])
def test_nothing_is_done_in_updates_that_are_not_due(tmp_path, monkeypatch, exact):
    calls, alone = [], []
    original = module.squares_by_component
    monkeypatch.setattr(
        module, 'squares_by_component', lambda *args: calls.append(1) or original(*args)
    )
    monkeypatch.setattr(module, 'all_reduce', lambda rows: calls.append(2))
    weights = {}
    for interval in (3, 100):
        runner = noise_runner(
            tmp_path / str(interval),
            dict(interval=interval),
            epochs=7,
            train_cfg=dict(exact_sum=exact),
        )
        runner.train()
        weights[interval] = runner.model.state_dict()
        alone.append(runner.train_loop._update._alone is not None)
    # Updates 3 and 6: gradients left over, of 6 micro-batches and of the mean; a sum over ranks.
    assert calls == 2 * (8 * [1] + [2])
    # Gradients stand alone where the loop adds them so, and for the hook.
    assert alone == [True, exact]
    for name, value in weights[3].items():
        rtol = 0 if exact else 1e-5
        torch.testing.assert_close(value, weights[100][name], rtol=rtol, atol=rtol)


@pytest.mark.slow
def test_through_the_tool_on_a_recipe(tool, shapes, tmp_path):
    """Three updates of two micro-batches of one picture."""
    options = [*data_options(shapes), *CUT, 'train_cfg.max_updates=3']
    noise = [f'default_hooks.noise_scale.{x}' for x in ('type=NoiseScaleHook', 'interval=1')]
    done = tool('train.py', SHAPES, '--work-dir', tmp_path, '--cfg-options', *options, *noise)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall(r'INFO - noise scale ', log_of(tmp_path))) == 3
    found = written(tmp_path)
    assert list(found) == [1, 2, 3]
    components = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head')
    for scalars in found.values():
        for name in ('gradient_variance', 'gradient_square'):
            parts = [scalars[f'{component}/{name}'] for component in components]
            assert scalars[name] == pytest.approx(sum(parts))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(interval=0), r'interval=0\. Must be a whole number of updates >= 1\.'),
        (dict(interval=2.5), r'interval=2\.5\. Must be a whole number of updates >= 1\.'),
        (dict(interval='often'), r"interval='often'\. Must be a whole number of updates >= 1\."),
        (dict(window=1), r'window=1\. Must be a whole number of measurements >= 2\.'),
        (dict(window=True), r'window=True\. Must be a whole number of measurements >= 2\.'),
    ],
)
def test_a_wrong_setting(settings, message):
    with pytest.raises(SettingError, match=rf'^Invalid NoiseScaleHook\.{message}$'):
        NoiseScaleHook(**settings)


class Stock(EpochBasedTrainLoop):
    """MMEngine's loop, for a config that has a global batch."""

    def __init__(self, runner, dataloader, max_epochs, global_batch_size):
        super().__init__(runner, dataloader, max_epochs)


ONE = (
    r'^Invalid train_dataloader\.batch_size=12\. Must be at most 6 with '
    r'train_cfg\.global_batch_size=12: NoiseScaleHook compares the micro-batches of an update, at '
    r'least 2\.$'
)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(micro_batch=12), ONE),
        (
            dict(micro_batch=1, train_cfg=dict(global_batch_size=1)),
            r'^Invalid train_cfg\.global_batch_size=1\. Must be above 1 for NoiseScaleHook\.$',
        ),
        (
            dict(train_cfg=dict(global_batch_size=32)),
            r'^Invalid train_cfg\.global_batch_size=32\. Must be at most 12, the images of the '
            r'data set: NoiseScaleHook measures updates whose micro-batches are full\.$',
        ),
        (
            dict(train_cfg=dict(type=Stock)),
            r"^Invalid train_cfg\.type='Stock'\. Must be 'GlobalBatchTrainLoop': "
            r'NoiseScaleHook measures its micro-batches\.$',
        ),
    ],
)
def test_a_training_that_cannot_be_measured(tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        noise_runner(tmp_path, **settings).train()


def test_a_plan_refuses_it_too():
    cfg = Config.fromfile(ROOT / SHAPES)
    cfg.default_hooks.noise_scale = dict(type='NoiseScaleHook')
    cfg.train_dataloader.batch_size = 16
    with pytest.raises(SettingError, match=r'batch_size=16\. Must be at most 8 with'):
        with dry_run(cfg, 1, 512):
            pass
    cfg.train_dataloader.batch_size = 8
    with dry_run(cfg, 1, 512) as runner:
        assert runner.train_loop.sampler.micro_batches == 2
