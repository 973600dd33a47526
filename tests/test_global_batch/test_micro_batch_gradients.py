"""Gradients that stand alone: listeners, and integers under loss scaling and in a divergence."""

import json

import pytest
import torch
from helpers.cpu_amp import CPUAmp
from helpers.divergence import Bad, make
from helpers.regression import START, Points, Regression, every_second_step, gradient, train
from mmengine.hooks import Hook

from mmdet_largebatch import DivergenceError, SettingError
from mmdet_largebatch.global_batch.exact_sum import limit
from mmdet_largebatch.global_batch.micro_batch_gradients import MicroBatchGradients


def test_gradients_are_added_as_the_nearest_multiples():
    """By Python's integers, float64 and float32: 2.5 units round to 2, and no sum rounds."""
    unit = 2.0**-44
    model = torch.nn.ParameterDict(
        {name: torch.nn.Parameter(torch.zeros(6, dtype=getattr(torch, name))) for name in KINDS}
    )
    sums = MicroBatchGradients(model, ranks=1, micro_batches=3, exact=True)
    sums.begin()
    totals = dict.fromkeys(KINDS, [0] * 6)
    for large in (1000.0, -1000.0, 0.1):
        for name, p in model.items():
            p.grad = torch.tensor([unit, -3 * unit, 2.5 * unit, 0.1, -1e-30, large]).to(p)
            integers = [round(x * 2**44) for x in p.grad.tolist()]
            totals[name] = [a + b for a, b in zip(totals[name], integers, strict=True)]
        sums.add(1.0)
    assert sums.finish() == {}
    assert totals['float64'][:3] == [3, -9, 6]
    for name, p in model.items():
        expected = torch.tensor([total * unit / 3 for total in totals[name]], dtype=torch.float64)
        rtol = 2e-7 if name == 'float32' else 4e-16
        torch.testing.assert_close(p.grad.double(), expected, rtol=rtol, atol=0)


def test_the_greatest_gradients_fit():
    assert limit(64) * 64 * 2**44 == 2**61


@pytest.mark.parametrize('micro_batch', [1, 2, 3, 6, 12])
@pytest.mark.parametrize('exact', [False, True])
def test_the_mean_gradient_and_what_listeners_are_given(tmp_path, micro_batch, exact):
    """Each is the gradient of the mean loss of its own points; their mean is the update's."""
    listener = Listener()
    runner, _ = train(tmp_path, micro_batch, hooks=[listener], exact_sum=exact)
    mean, _ = gradient()
    torch.testing.assert_close(runner.model.w.double(), START.double() - 0.1 * mean)
    assert [index for index, _ in listener.heard] == list(range(12 // micro_batch))
    for (_, found), batch in zip(listener.heard, listener.batches, strict=True):
        x, y = batch['x'].double(), batch['y'].double()
        expected = 2 * ((x @ START.double() - y)[:, None] * x).mean(0)
        torch.testing.assert_close(found['w'].double(), expected, rtol=1e-5, atol=1e-6)


class Listener(Hook):
    """Notes what it is given, in the updates whose number is not in `deaf`."""

    def __init__(self, deaf=()):
        self.heard, self.batches, self.deaf = [], [], deaf

    def before_train(self, runner):
        forward = runner.model.forward

        def noted(x, y, mode='loss'):
            if torch.is_grad_enabled():  # not in the first update's pass without gradients
                self.batches.append(dict(x=x, y=y))
            return forward(x, y, mode)

        runner.model.forward = noted

    def wants_micro_batches(self, runner):
        return runner.iter not in self.deaf

    def after_micro_batch(self, runner, index, gradients):
        assert all(p.grad is None for p in runner.model.parameters())
        self.heard.append((index, {name: g.clone() for name, g in gradients.items()}))


def test_nothing_is_heard_in_an_update_that_nobody_asks_for(tmp_path):
    listener = Listener(deaf=(0, 2))
    runner, _ = train(tmp_path / 'a', 2, hooks=[listener], epochs=4)
    assert len(listener.heard) == 2 * 6
    silent, _ = train(tmp_path / 'b', 2, epochs=4)
    torch.testing.assert_close(runner.model.w, silent.model.w)


def test_loss_scaling(tmp_path):
    """A scale that is a power of two changes no bit of float32 gradients; listeners see none."""

    def run(folder, scale):
        listener = Listener()
        wrapper = dict(type=CPUAmp, init_scale=scale)
        runner, _ = train(tmp_path / folder, 2, wrapper, [listener], exact_sum=True)
        return runner, listener.heard

    one, plain = run('a', 1.0)
    scaled, heard = run('b', 2.0**10)
    mean, _ = gradient()
    step = scaled.model.w.detach().double() - START
    # bfloat16 has 8 bits.
    assert float((step + 0.1 * mean).norm() / (0.1 * mean).norm()) < 0.02
    assert scaled.model.w.equal(one.model.w)
    assert all(a['w'].equal(b['w']) for (_, a), (_, b) in zip(plain, heard, strict=True))

    skipped, _ = run('c', 2.0**127)
    assert skipped.model.w.equal(START)
    assert skipped.optim_wrapper.loss_scaler.get_scale() == 2.0**126


KINDS = 'float32', 'float64'
BEYOND = 2.0**17 / 6  # of 6 micro-batches


def spoilt(folder, hook, value, wrapper=None, update=3):
    runner = make(
        folder,
        hook,
        Bad(update, 'gradient', value),
        wrapper=wrapper,
        train_cfg=dict(exact_sum=True),
    )
    runner.train()
    return runner


@pytest.mark.parametrize('hook', [None, {}])
@pytest.mark.parametrize(
    ('value', 'why'),
    [(float('nan'), 'is not finite'), (1e30, 'is not finite'), (1e7, rf'a norm above {BEYOND:g}')],
)
def test_a_gradient_that_cannot_be_added_is_a_divergence(tmp_path, hook, value, why):
    """The second is finite, but in integers beyond float32."""
    with pytest.raises(DivergenceError, match=rf'update 3 of 8.*: the gradient of w .*{why}'):
        spoilt(tmp_path / 'run', hook, value)
    [record] = (tmp_path / 'run').glob('*/largebatch.json')
    record = json.loads(record.read_text())
    assert record['exact_sum'] is True
    assert (record['ended']['how'], record['ended']['update']) == ('diverged', 3)


def test_it_can_be_rolled_back(tmp_path):
    runner = spoilt(tmp_path / 'run', dict(rollbacks=1), 1e7)
    assert runner.iter == 8 and runner.model.w.isfinite().all()


def test_under_loss_scaling_the_scaler_skips_what_is_not_finite(tmp_path):
    """At a scale of 1 it is no doing of the scale; a range that is left never is."""
    at = {scale: dict(type=CPUAmp, init_scale=scale) for scale in (1.0, 4.0)}
    runner = spoilt(tmp_path / 'a', {}, float('inf'), at[4.0])
    assert runner.iter == 8
    assert runner.optim_wrapper.loss_scaler.get_scale() == 2.0
    for folder, scale, value in (('b', 1.0, float('inf')), ('c', 4.0, 1e7)):
        with pytest.raises(DivergenceError, match='the gradient of w'):
            spoilt(tmp_path / folder, {}, value, at[scale])


class Parts(torch.nn.Module):
    """Parameters of several kinds, in several layouts."""

    def __init__(self):
        super().__init__()
        shapes = dict(
            used=(3, 4), later=(2,), never=(5,), rounded=(3,), conv=(2, 3, 4, 4), none=(0,)
        )
        for name, shape in shapes.items():
            self.register_parameter(name, torch.nn.Parameter(torch.ones(shape)))
        self.rounded.data = self.rounded.data.bfloat16()
        self.conv.data = self.conv.data.to(memory_format=torch.channels_last)
        self.later.requires_grad_(False)


def test_unused_unfrozen_and_half_precision_parameters():
    model, draws = Parts(), torch.Generator().manual_seed(0)
    sums = MicroBatchGradients(model, ranks=1, micro_batches=2, exact=True)
    for names in (['used', 'rounded', 'conv', 'none'], ['used', 'later', 'conv']):
        model.later.requires_grad_('later' in names)
        expected = {}
        sums.begin()
        for number in range(2):
            for name in names[number:]:
                p = getattr(model, name)
                p.grad = torch.randn(p.shape, generator=draws).to(p).reshape(p.shape)
                expected.setdefault(name, []).append(p.grad.double())
            sums.add(1.0)
        assert sums.finish() == {}
        for name, p in model.named_parameters():
            if name not in expected:
                assert p.grad is None
                continue
            mean = sum(expected[name]) / 2
            assert p.grad.dtype == p.dtype and p.grad.stride() == p.stride()
            torch.testing.assert_close(p.grad, mean.to(p.dtype))
        model.zero_grad()


def test_gradients_that_a_step_left_out_are_kept(tmp_path, monkeypatch):
    """Every second update is left out; the next one steps with both gradients, as in stock."""
    monkeypatch.setattr(Regression, 'train_step', every_second_step)
    weights = [
        train(tmp_path / str(exact), 2, epochs=4, exact_sum=exact)[0].model.w
        for exact in (False, True)
    ]
    torch.testing.assert_close(*weights)
    assert not weights[0].equal(START)


def test_refusals(tmp_path):
    with pytest.raises(SettingError, match=r"train_cfg\.exact_sum='yes'\. Must be True or False"):
        train(tmp_path / 'a', 2, exact_sum='yes')
    model = torch.nn.Embedding(4, 2, sparse=True)
    sums = MicroBatchGradients(model, 1, 2, True)
    sums.begin()
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(
        SettingError, match=r'exact_sum=True\. Must be False, or dense .* weight is sparse'
    ):
        sums.add(1.0)


def test_the_log_and_the_record_say_it(tmp_path):
    assert len(Points()) == 12
    for exact, line in ((True, 'exact_sum=True: gradients'), (False, 'exact_sum=False: gradients')):
        folder = tmp_path / str(exact)
        train(folder, 2, exact_sum=exact)
        [log] = folder.glob('*/*.log')
        assert line in log.read_text()
        [record] = folder.glob('*/largebatch.json')
        assert json.loads(record.read_text())['exact_sum'] is exact
