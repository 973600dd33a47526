"""The first pass over the micro-batches of an update leaves nothing behind."""

import os

import pytest
import torch
from helpers.regression import START, Points, Regression, gradient, toy_runner
from mmdet.utils import reduce_mean
from torch.utils.data import TensorDataset

OPEN_FILES = []


class CountFiles(Regression):
    """Count the open files of this process."""

    def forward(self, x, y, mode='loss'):
        OPEN_FILES.append(len(os.listdir('/proc/self/fd')))
        return super().forward(x, y, mode)


def test_micro_batches_of_data_workers_are_not_kept_in_shared_memory(tmp_path):
    """A file stays open for each of their tensors. The second update keeps none."""
    OPEN_FILES.clear()
    runner = toy_runner(
        *(tmp_path, CountFiles(), 1, 2),
        data=dict(dataset=TensorDataset(torch.ones(64, 3), torch.ones(64)), workers=1),
        train_cfg=dict(global_batch_size=64),
    )
    runner.train()
    # Two passes, then one.
    first, second = OPEN_FILES[:128], OPEN_FILES[128:]
    assert len(second) == 64
    # A worker has up to 3 micro-batches of 2 tensors under way.
    assert max(first) <= max(second) + 6


class NeedsGradients(Regression):
    """Clip the gradient of the error, by a hook or by the gradient itself."""

    def forward(self, x, y, mode='loss'):
        error = x @ self.w - y
        getattr(self, self.how)(error)
        # A call after what needs gradients is recorded too.
        return dict(loss=(error**2).sum() / reduce_mean(torch.tensor(float(len(x)))))

    def register_hook(self, error):
        error.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))

    def retain_grad(self, error):
        error.retain_grad()

    def autograd(self, error):
        torch.autograd.grad(error.sum(), self.w, retain_graph=True)

    def grad_fn(self, error):
        error.grad_fn.register_hook(lambda *_: None)


@pytest.mark.parametrize('how', ['register_hook', 'retain_grad', 'autograd', 'grad_fn'])
@pytest.mark.parametrize('micro_batch', [12, 2])
def test_a_forward_pass_may_need_gradients(tmp_path, how, micro_batch):
    """The gradient with respect to each of the 12 errors e is 2 e / 12, clipped by the hook."""
    model, points = NeedsGradients(), Points()
    model.how = how
    toy_runner(tmp_path, model, micro_batch).train()
    gradients = 2 * (points.x @ START.double() - points.y) / 12
    if how == 'register_hook':
        assert gradients.abs().max() > 0.1
        gradients = gradients.clamp(-0.1, 0.1)
    expected = START.double() - 0.1 * gradients @ points.x
    torch.testing.assert_close(model.w.double(), expected)


class OwnBackward(Regression):
    """A train_step that calls `backward` itself."""

    def train_step(self, data, optim_wrapper):
        losses = self(**self.data_preprocessor(data, True))
        losses['loss'].backward()
        optim_wrapper.step()
        return losses


def test_gradients_of_the_first_pass_are_dropped(tmp_path):
    """Exact sums take a micro-batch's gradient as it is, so that no scaled loss is needed."""
    model = OwnBackward()
    toy_runner(tmp_path, model, train_cfg=dict(exact_sum=True)).train()
    torch.testing.assert_close(model.w.double(), START.double() - 0.1 * gradient()[0])


def test_anomalous_parameters_are_searched_in_the_second_pass(one_rank, tmp_path, capsys):
    """MMEngine's option names parameters without a part in the loss; here there are none."""
    for how in ('retain_grad', None):
        model = Regression() if how is None else NeedsGradients()
        model.how = how
        ddp = dict(detect_anomalous_params=True)
        assert toy_runner(tmp_path, model, ddp=ddp).train().detect_anomalous_params
    assert 'computational graph' not in capsys.readouterr().out
