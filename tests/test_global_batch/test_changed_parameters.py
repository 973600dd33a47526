"""Teachers within a model: each micro-batch is one step, and the log names them."""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.forked import run_apart, run_ranks
from helpers.regression import START, Regression, toy_runner
from mmdet.utils import reduce_mean
from mmengine.hooks import Hook

MOMENTUM = 0.9


class Teacher(Regression):
    """A teacher that follows the weights in each forward pass, with a part in the loss.

    Args:
        start (Tensor): Its first weights.
        how (str): 'mul_' changes it in place, 'data' too, where no counter of autograd sees it, and
            'lerp_' as MMEngine's averages do: equal weights stay equal to the last bit.
        hidden (bool): Keep it in a list, so that it is no part of the state dict.
    """

    def __init__(self, start, how, hidden=False):
        super().__init__()
        self.how = how
        teacher = torch.nn.ParameterList([torch.nn.Parameter(start.clone(), False)])
        if hidden:
            self.hidden = [teacher]
        else:
            self.teacher = teacher

    @property
    def weights(self):
        return (self.hidden[0] if hasattr(self, 'hidden') else self.teacher)[0]

    @torch.no_grad()
    def follow(self):
        if self.how == 'mul_':
            self.weights.mul_(MOMENTUM).add_(self.w, alpha=1 - MOMENTUM)
        elif self.how == 'data':
            self.weights.data = MOMENTUM * self.weights.data + (1 - MOMENTUM) * self.w.data
        else:
            self.weights.data.lerp_(self.w.data, 1 - MOMENTUM)

    def forward(self, x, y, mode='loss'):
        self.follow()
        losses = super().forward(x, y, mode)
        losses['loss_teacher'] = ((x @ self.w - x @ self.weights) ** 2).mean()
        return losses


class Normalised(Teacher):
    """Each update has a first pass."""

    def forward(self, x, y, mode='loss'):
        losses = super().forward(x, y, mode)
        return losses | dict(loss=losses['loss'] / reduce_mean(torch.ones(())))


CHANGED = 'Each micro-batch changes {}, on its own rank alone.'


@pytest.mark.parametrize(
    ('kind', 'start', 'how', 'hidden'),
    [
        (Teacher, START + 9, 'mul_', False),
        (Teacher, START + 9, 'data', True),
        (Teacher, START, 'lerp_', False),
        (Normalised, START + 9, 'data', False),
        (Normalised, START, 'lerp_', True),
    ],
)
def test_each_micro_batch_is_one_step(tmp_path, capsys, kind, start, how, hidden):
    """6 micro-batches an update. A teacher that begins as a copy moves in the second update."""
    model, weights = kind(start, how, hidden), []

    class Weights(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            weights.append(model.w.detach().clone())

    toy_runner(tmp_path, model, epochs=4, hooks=[Weights()]).train()
    expected = start.double()
    for w in weights:
        for _ in range(6):
            expected = MOMENTUM * expected + (1 - MOMENTUM) * w.double()
    torch.testing.assert_close(model.weights.double(), expected, rtol=1e-5, atol=1e-5)
    name = 'hidden.0' if hidden else 'teacher.0'
    assert capsys.readouterr().out.count(CHANGED.format(name)) == 1


def train_on_two_ranks(folder, how):
    toy_runner(Path(folder), Teacher(START, how), 4, epochs=3, ranks=2).train()


def on_two_ranks(folder, how):
    run_ranks(partial(train_on_two_ranks, folder, how), 2)


@pytest.mark.multiprocess
def test_uneven_shares_are_refused(tmp_path):
    """3 micro-batches on 2 ranks: the teachers would go apart. One rank alone can see it."""
    done = run_apart(on_two_ranks, str(tmp_path / 'work'), 'lerp_')
    assert done.returncode != 0
    assert (
        '2 ranks cannot share the 3 micro-batches of an update evenly, and each changes teacher.0 '
        'on its own rank alone. Must be 1 or 3 ranks, or another train_cfg.global_batch_size.'
    ) in done.stdout
