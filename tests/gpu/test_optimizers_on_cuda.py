"""LAMB and LARS on a GPU: equal to the CPU, without waiting for it; and NVIDIA's Apex itself."""

import copy

import pytest
import torch

from mmdet_largebatch.optimizers import LAMB, LARS
from mmdet_largebatch.optimizers.apex_lamb import ApexUnfit, find_fused_lamb

pytestmark = pytest.mark.gpu

SHAPES = [(), (7,), (0, 3), (64, 32, 3, 3), (65_537,)]
VARIANTS = [
    (LAMB, {'backend': 'torch'}),
    (
        LAMB,
        {'backend': 'torch', 'use_nvlamb': True, 'adam_w_mode': False, 'trust_clip': (0.1, 2.0)},
    ),
    (LARS, {'weight_decay': 5e-4, 'nesterov': True}),
]


def set_gradients(params, seed):
    draw = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=draw).to(p.device)


def make(device):
    draw = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, generator=draw).to(device)) for s in SHAPES]
    return params, [{'params': params[:3], 'weight_decay': 0.0}, {'params': params[3:]}]


@pytest.mark.parametrize(('kind', 'options'), VARIANTS)
def test_equal_to_the_cpu_without_waiting_for_the_gpu(kind, options):
    (ours, groups), (theirs, cpu_groups) = make('cuda'), make('cpu')
    optimizer, reference = kind(groups, lr=0.01, **options), kind(cpu_groups, lr=0.01, **options)
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        torch.cuda.set_sync_debug_mode('error')
        try:
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode('default')
        reference.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p.cpu(), q, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    'options',
    [{}, {'adam_w_mode': False}, {'use_nvlamb': True}, {'max_grad_norm': None}],
)
def test_apex_gives_the_numbers_of_the_torch_backend(options):
    try:
        find_fused_lamb()
    except ApexUnfit as unfit:
        pytest.skip(str(unfit))
    (ours, groups), (theirs, apex_groups) = make('cuda'), make('cuda')
    optimizer = LAMB(groups, lr=0.01, backend='torch', **options)
    fused = LAMB(apex_groups, lr=0.01, backend='apex', **options)
    for step in range(20):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        fused.step()
    for p, q in zip(ours, theirs, strict=True):
        # Apex is compiled with fast-math: the tolerances that it can be held to.
        torch.testing.assert_close(p, q, rtol=1.3e-6, atol=1e-5)
        for name, value in optimizer.state[p].items():
            atol = 1e-6 * value.abs().max().item()
            torch.testing.assert_close(value, fused.state[q][name], rtol=1e-5, atol=atol)
    moved = copy.deepcopy(fused.state_dict())
    optimizer.load_state_dict(moved)
    assert [group['step'] for group in optimizer.param_groups] == [20, 20]
