"""mmdet's reduce_mean over the micro-batches of an update: against MMDetection's own on real ranks,
and on a model whose gradient is known."""

import pytest
import torch
from helpers.cpu_amp import CPUAmp
from helpers.regression import START, Points, Regression, train
from mmdet.utils import dist_utils, reduce_mean
from mmengine.hooks import EMAHook
from torch.utils.checkpoint import checkpoint

from mmdet_largebatch import SettingError

CALLS = []


class Normalised(Regression):
    """(w x - y)^2, over the mean of |x|^2 + w^2 over the micro-batches of the update."""

    def forward(self, x, y, mode='loss'):
        CALLS.append(torch.is_grad_enabled())
        self.count = getattr(self, 'count', 0) + 1
        self.draws.append(float(torch.rand(())))
        return dict(loss=self.squares(x, y) / self.normaliser(x))

    def squares(self, x, y):
        return ((x @ self.w - y) ** 2).sum()

    def normaliser(self, x):
        return normaliser(self.w, x)


def expected(micro_batch, w=START):
    """Loss and gradient with a rank for each of K micro-batches.

    The normaliser n is the mean of all n_j; autograd sees its division by K and not the all-reduce,
    so d n / d n_j = 1 / K on rank j. DDP takes the mean of the gradients."""
    points, k = Points(), 12 // micro_batch
    x, y, w = points.x, points.y, w.double()
    n = (x**2).sum() / k + (w**2).sum()
    squares = ((x @ w - y) ** 2).sum()
    through_squares = 2 * ((x @ w - y)[:, None] * x).sum(0) / n / k
    through_n = -squares / n**2 * 2 * w / k / k
    return float(squares / n / k), through_squares + through_n


@pytest.fixture(autouse=True)
def calls():
    CALLS.clear()
    yield CALLS
    assert dist_utils.dist is torch.distributed


def run(tmp_path, model, micro_batch=2, **kwargs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('helpers.regression.Regression', model)
        return train(tmp_path, micro_batch, **kwargs)


@pytest.mark.parametrize('micro_batch', [1, 2, 4, 6])
def test_value_and_gradient_are_those_of_a_rank_for_each_micro_batch(tmp_path, micro_batch):
    runner, log = run(tmp_path, Normalised, micro_batch)
    loss, gradient = expected(micro_batch)
    assert log.losses == [pytest.approx(loss, rel=1e-6)]
    torch.testing.assert_close(runner.model.w.double(), START.double() - 0.1 * gradient)
    # Whatever a forward pass changes is changed once.
    k = 12 // micro_batch
    assert runner.model.count == k and len(runner.model.draws) == len(set(runner.model.draws)) == k
    assert CALLS == [False] * k + [True] * k


def normaliser(w, x):
    return reduce_mean((x**2).sum() + (w**2).sum())


class Double(Normalised):
    """The argument is float64, the type that the means are taken in."""

    def normaliser(self, x):
        return normaliser(self.w.double(), x)


def test_an_argument_in_float64(tmp_path):
    runner, log = run(tmp_path, Double)
    loss, gradient = expected(2)
    assert log.losses == [pytest.approx(loss, rel=1e-6)]
    torch.testing.assert_close(runner.model.w.double(), START.double() - 0.1 * gradient)


class Checkpointed(Normalised):
    """The normaliser is computed again in the backward pass."""

    reentrant = False

    def normaliser(self, x):
        return checkpoint(normaliser, self.w, x, use_reentrant=self.reentrant)


class Reentrant(Checkpointed):
    reentrant = True


@pytest.mark.parametrize('model', [Checkpointed, Reentrant])
@pytest.mark.filterwarnings('ignore:None of the inputs have requires_grad')
def test_activation_checkpointing_sees_the_same_means(tmp_path, model):
    plain, _ = run(tmp_path / 'plain', Normalised, epochs=2)
    again, _ = run(tmp_path / 'again', model, epochs=2)
    assert torch.equal(plain.model.w, again.model.w)


def test_mixed_precision_clipping_and_ema(tmp_path):
    """bfloat16 has 8 bits. The gradient is clipped once, and the average sees one update."""
    loss, gradient = expected(2)
    ema = EMAHook(momentum=0.5)
    runner, log = run(
        *(tmp_path, Normalised),
        optim_wrapper=dict(type=CPUAmp, clip_grad=dict(max_norm=0.01)),
        hooks=[ema],
    )
    assert log.losses == [pytest.approx(loss, rel=0.02)]
    step = runner.model.w.detach().double() - START
    torch.testing.assert_close(step, -0.001 * gradient / gradient.norm(), rtol=0.02, atol=2e-5)
    assert torch.equal(ema.ema_model.module.w, runner.model.w) and int(ema.ema_model.steps) == 1


class OwnStep(Normalised):
    """A train_step of the user's, with a state of its own."""

    def train_step(self, data, optim_wrapper):
        self.steps = getattr(self, 'steps', 0) + 1
        with optim_wrapper.optim_context(self):
            losses = self(**self.data_preprocessor(data, True), mode='loss')
        optim_wrapper.zero_grad()
        optim_wrapper.backward(losses['loss'])
        optim_wrapper.step()
        return losses


def test_a_train_step_of_the_users(tmp_path):
    runner, _ = run(tmp_path, OwnStep)
    _, gradient = expected(2)
    torch.testing.assert_close(runner.model.w.double(), START.double() - 0.1 * gradient)
    assert runner.model.steps == 6


def test_what_each_micro_batch_changes_in_the_model_is_named_once(tmp_path, capsys):
    """Normalised counts its calls and keeps its draws; from 6 micro-batches on one rank."""
    run(tmp_path, Normalised, epochs=3)
    line = 'Each micro-batch changes Normalised.draws, Normalised.count, on its own rank alone.'
    assert capsys.readouterr().out.count(line) == 1


def test_a_model_without_such_calls_pays_once(tmp_path):
    class Plain(Regression):
        def forward(self, x, y, mode='loss'):
            CALLS.append(torch.is_grad_enabled())
            return super().forward(x, y, mode)

    run(tmp_path, Plain, epochs=3)
    assert CALLS == [False] * 6 + [True] * 18


class AnotherCall(Normalised):
    def normaliser(self, x):
        if torch.is_grad_enabled() == (self.more == 'second'):
            reduce_mean(torch.ones(()))
        return super().normaliser(x)


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        ('first', 'makes 1 calls .* that made 2 when'),
        ('second', 'makes call 2 .* that made 1 when'),
    ],
)
def test_a_call_more_or_less_names_the_head(tmp_path, more, message):
    AnotherCall.more = more
    with pytest.raises(SettingError, match=f'model: AnotherCall {message}') as error:
        run(tmp_path, AnotherCall)
    assert '\n' not in str(error.value)


class Uneven(Normalised):
    def normaliser(self, x):
        calls = 1 + (self.count == 2)
        return sum(reduce_mean((x**2).sum()) for _ in range(calls))


def test_a_call_that_some_micro_batches_make(tmp_path):
    with pytest.raises(SettingError, match='Uneven hands .* 1 numbers in one .* and 2 in another'):
        run(tmp_path, Uneven)


class Dependent(Normalised):
    def normaliser(self, x):
        return reduce_mean((x**2).sum() / reduce_mean((x**2).sum()))


def test_an_argument_that_depends_on_another_mean(tmp_path):
    with pytest.raises(SettingError, match='what Dependent hands .* depends on the means'):
        run(tmp_path, Dependent)


# Against MMDetection on real ranks.


@pytest.mark.parametrize('name', ['fcos', 'atss'])
@pytest.mark.slow
def test_losses_of_stock_mmdetection_on_4_ranks(trained, name):
    """4 processes of one micro-batch in MMEngine's own loop under DDP, and 4 micro-batches in this
    loop on 1 process and on 3. The first 3 updates are one epoch."""
    same = {'train_dataloader.dataset.pipeline.3.prob': 0.0}
    runs = trained(
        {
            f'{name}_stock': (name, 4, dict(micro_batches=0, updates=1, **same)),
            f'{name}_1': (name, 1, dict(micro_batches=4, updates=3, **same)),
            f'{name}_3': (
                *(name, 3),
                dict(micro_batches=4, updates=3, find_unused_parameters=True, **same),
            ),
        }
    )
    stock = runs[f'{name}_stock'][0]['losses']
    assert len(stock) == 3
    for ranks in (1, 3):
        ours = runs[f'{name}_{ranks}'][0]['losses']
        for losses, wanted in zip(ours, stock, strict=True):
            assert losses == pytest.approx(wanted, rel=1e-5)
