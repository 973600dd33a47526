"""LAMB and LARS in MMEngine's AmpOptimWrapper, which cannot be constructed without a GPU."""

import pytest
import torch
from mmengine.optim import AmpOptimWrapper

from mmdet_largebatch.optimizers import LAMB, LARS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize('kind', [LAMB, LARS])
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_training_in_mixed_precision_lowers_the_loss(kind, dtype):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)
    ).cuda()
    optimizer = kind(model.parameters(), lr=0.02 if kind is LAMB else 5.0)
    wrapper = AmpOptimWrapper(dtype=dtype, optimizer=optimizer)
    x = torch.randn(64, 8, device='cuda')
    target = x.sum(1, keepdim=True)
    losses = []
    for _ in range(60):
        with wrapper.optim_context(model):
            loss = torch.nn.functional.mse_loss(model(x).float(), target)
        wrapper.update_params(loss)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize('kind', [LAMB, LARS])
def test_an_overflow_skips_the_update_and_halves_the_scale(kind):
    model = torch.nn.Linear(4, 2).cuda()
    before = [p.detach().clone() for p in model.parameters()]
    wrapper = AmpOptimWrapper(dtype='float16', optimizer=kind(model.parameters(), lr=0.1))
    scale = wrapper.loss_scaler.get_scale()
    with wrapper.optim_context(model):
        loss = model(torch.ones(8, 4, device='cuda')).float().sum() * float('inf')
    wrapper.update_params(loss)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert not wrapper.optimizer.state
    assert wrapper.loss_scaler.get_scale() == scale / 2
