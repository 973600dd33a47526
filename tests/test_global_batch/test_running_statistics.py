"""Running statistics of batch norm after an update, by their definition in float64."""

import pytest
import torch
from helpers.regression import train
from mmengine.model import BaseModel
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmdet_largebatch.global_batch.running_statistics import RunningStatistics


class Normed(BaseModel):
    """Points through a batch norm, once or more often; `seen` holds what goes in."""

    momentum, times, checkpointed, norm = 0.1, 1, False, nn.BatchNorm1d

    def __init__(self):
        super().__init__()
        self.bn = self.norm(3, momentum=self.momentum, track_running_stats=True)
        self.w = nn.Parameter(torch.ones(3))
        self.frozen = nn.BatchNorm1d(3)
        self.frozen.running_mean.fill_(5.0)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x, y, mode='loss'):
        SEEN.append(x.clone())
        for _ in range(self.times):
            x = checkpoint(self.bn, x, use_reentrant=False) if self.checkpointed else self.bn(x)
        return dict(loss=((self.frozen(x) @ self.w - y) ** 2).mean())


SEEN = []


def run(tmp_path, micro_batch, epochs=1, **attributes):
    SEEN.clear()
    model = type('Normed', (Normed,), attributes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('helpers.regression.Regression', model)
        runner, _ = train(tmp_path, micro_batch, epochs=epochs)
    return runner.model


def after(start, x, count, momentum):
    """PyTorch's formula: the variance is unbiased; without a momentum it is 1 / count."""
    m = 1 / count if momentum is None else momentum
    mean, var = start
    return (1 - m) * mean + m * x.mean(0), (1 - m) * var + m * x.var(0)


@pytest.mark.parametrize('momentum', [0.1, None])
@pytest.mark.parametrize(
    ('micro_batch', 'checkpointed'), [(3, False), (4, False), (4, True), (12, False)]
)
def test_the_mean_over_the_micro_batches(tmp_path, micro_batch, momentum, checkpointed):
    """2 updates of 12 points. Points is all that goes in, so no weight matters."""
    model = run(tmp_path, micro_batch, 2, momentum=momentum, checkpointed=checkpointed)
    mean, var = torch.zeros(3).double(), torch.ones(3).double()
    k = 12 // micro_batch
    # The first pass of the first update comes first.
    batches = [x.double() for x in SEEN[-2 * k :]]
    for update in (0, 1):
        results = [
            after((mean, var), x, update + 1, momentum)
            for x in batches[update * k : (update + 1) * k]
        ]
        mean = torch.stack([mean for mean, _ in results]).mean(0)
        var = torch.stack([var for _, var in results]).mean(0)
    torch.testing.assert_close(model.bn.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.bn.running_var.double(), var, rtol=1e-5, atol=1e-6)
    assert int(model.bn.num_batches_tracked) == 2
    assert torch.equal(model.frozen.running_mean, torch.full((3,), 5.0))
    assert int(model.frozen.num_batches_tracked) == 0


def test_a_layer_that_is_called_twice(tmp_path):
    """Each micro-batch as PyTorch computes it, from the start's statistics."""
    model = run(tmp_path, 4, times=2)
    results = []
    for x in SEEN[-3:]:
        bn = nn.BatchNorm1d(3)
        bn(bn(x))
        results.append(bn.running_var.double())
    torch.testing.assert_close(model.bn.running_var.double(), torch.stack(results).mean(0))
    assert int(model.bn.num_batches_tracked) == 2


def test_the_mean_has_no_order():
    """Values over 12 decades, in two orders; a float64 sum of the same differs."""
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.randint(-6, 7, (64, 500), generator=generator)
    values = torch.randn(64, 500, generator=generator) * sizes
    found = []
    for order in (range(64), reversed(range(64))):
        bn = nn.BatchNorm1d(500)
        statistics = RunningStatistics(bn, ranks=1, micro_batches=64)
        statistics.look()
        statistics.begin()
        for index in order:
            with statistics.micro_batch():
                bn.running_mean.copy_(values[index])
        found.append(statistics._sums[:, :500].clone())
        statistics.finish()
    assert torch.equal(*found)
    torch.testing.assert_close(bn.running_mean, values.double().mean(0).float())
    one, other = values.double().cumsum(0)[-1], values.double().flip(0).cumsum(0)[-1]
    assert not torch.equal(one, other)


def test_nothing_is_paid_without_such_layers(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(3).eval(), nn.GroupNorm(1, 3))
    statistics = RunningStatistics(model, ranks=1, micro_batches=4)
    statistics.look()
    statistics.begin()
    with statistics.micro_batch():
        model[0].running_mean.fill_(1.0)
    statistics.finish()
    assert statistics._sums is None and float(model[0].running_mean[0]) == 1.0
