"""LAMB as an optimizer: state, checkpoints, groups, mixed precision, double clipping."""

import copy

import pytest
import torch
from helpers.optimizers.groups import (
    as_arrays,
    assert_close,
    gradients,
    lockstep,
    make_groups,
    run_lamb,
    set_gradients,
)
from helpers.optimizers.reference import ReferenceLAMB
from mmengine.optim import OptimWrapper

from mmdet_largebatch.optimizers import LAMB, double_clip_message


def test_missing_gradients_leave_parameters_alone_while_the_step_advances():
    groups = make_groups()
    optimizer = LAMB(groups)
    reference = ReferenceLAMB(as_arrays(groups))
    late = groups[0]['params'][1]
    before = late.detach().clone()
    for step in range(4):
        set_gradients(groups, step)
        if step < 2:
            late.grad = None
        reference.step(gradients(groups))
        optimizer.step()
        if step == 1:
            assert torch.equal(late, before) and late not in optimizer.state
    assert [group['step'] for group in optimizer.param_groups] == [4, 4]
    assert_close(groups, reference)


def test_state_is_laid_out_as_apex_does():
    groups = make_groups()
    optimizer, _ = run_lamb(groups, 2)
    conv = groups[0]['params'][3]
    assert set(optimizer.state[conv]) == {'exp_avg', 'exp_avg_sq'}
    assert {group['step'] for group in optimizer.param_groups} == {2}
    assert groups[0]['params'][-1] not in optimizer.state  # the empty one


def test_a_checkpoint_from_apex_is_taken():
    """Apex's groups know nothing of adam_w_mode, use_nvlamb and trust_clip; ours keep their own."""
    groups = make_groups(options=({'use_nvlamb': True}, {}))
    optimizer, _ = run_lamb(groups, 3, adam_w_mode=False)
    checkpoint = copy.deepcopy(optimizer.state_dict())
    for group in checkpoint['param_groups']:
        for name in ('adam_w_mode', 'use_nvlamb', 'trust_clip'):
            del group[name]
        group['max_grad_norm'] = 77.0
    fresh_groups = copy.deepcopy(optimizer).param_groups
    fresh = LAMB(
        [{'params': fresh_groups[0]['params'], 'use_nvlamb': True}, fresh_groups[1]],
        adam_w_mode=False,
    )
    fresh.load_state_dict(checkpoint)
    assert [group['use_nvlamb'] for group in fresh.param_groups] == [True, False]
    assert [group['max_grad_norm'] for group in fresh.param_groups] == [1.0, 1.0]
    lockstep(optimizer, fresh, 3)


@pytest.mark.parametrize('step', [3.0, torch.tensor(3), torch.tensor(3.0)])
def test_a_step_that_is_no_int_is_taken(step):
    groups = make_groups()
    optimizer, _ = run_lamb(groups, 3)
    checkpoint = copy.deepcopy(optimizer.state_dict())
    for group in checkpoint['param_groups']:
        group['step'] = step
    twin = copy.deepcopy(optimizer)
    twin.load_state_dict(checkpoint)
    assert [group['step'] for group in twin.param_groups] == [3, 3]
    assert all(type(group['step']) is int for group in twin.param_groups)
    lockstep(optimizer, twin, 2)


def test_a_group_added_later_starts_at_its_own_first_step():
    groups = make_groups()
    optimizer = LAMB(groups[:1])
    reference = ReferenceLAMB(as_arrays(groups[:1]))
    reference.step(set_gradients(groups[:1], 0))
    optimizer.step()
    optimizer.add_param_group(groups[1])
    reference.groups += ReferenceLAMB(as_arrays(groups[1:])).groups
    for step in range(3):
        reference.step(set_gradients(groups, step))
        optimizer.step()
    assert_close(groups, reference)
    assert [group['step'] for group in optimizer.param_groups] == [4, 3]


def test_grad_scaler_skips_an_overflow_and_unscales_the_rest():
    """torch's GradScaler on a CPU; MMEngine's AmpOptimWrapper needs a GPU (tests/gpu)."""
    torch.manual_seed(0)
    model, twin = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    twin.load_state_dict(model.state_dict())
    optimizer, reference = LAMB(model.parameters(), lr=0.1), LAMB(twin.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)
    start = copy.deepcopy(model.state_dict())
    x = torch.randn(8, 4)
    for overflow in (True, False):
        optimizer.zero_grad()
        with torch.autocast('cpu', torch.float16):
            loss = model(x).float().square().mean()
        scaler.scale(loss).backward()
        if overflow:
            model.weight.grad[0, 0] = float('inf')
        scaler.step(optimizer)
        scaler.update()
        if overflow:
            assert all(torch.equal(model.state_dict()[k], start[k]) for k in start)
            assert 'step' not in optimizer.param_groups[0]
    with torch.autocast('cpu', torch.float16):
        twin(x).float().square().mean().backward()
    reference.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        # float16 gradients, scaled by a power of two or not: equal but for float16's subnormals.
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    assert optimizer.param_groups[0]['step'] == 1


@pytest.mark.parametrize(
    ('max_grad_norm', 'clip_grad', 'twice'),
    [
        (1.0, dict(max_norm=35), True),
        (1.0, dict(type='value', clip_value=0.2), True),
        (None, dict(max_norm=35), False),
        (1.0, None, False),
    ],
)
def test_double_clip_message(max_grad_norm, clip_grad, twice):
    p = torch.nn.Parameter(torch.ones(2))
    message = double_clip_message(
        OptimWrapper(LAMB([p], max_grad_norm=max_grad_norm), clip_grad=clip_grad)
    )
    if twice:
        assert 'clips twice' in message and 'max_grad_norm=1.0' in message
        assert '\n' not in message
    else:
        assert message is None


def test_double_clip_message_is_for_lamb_alone():
    p = torch.nn.Parameter(torch.ones(2))
    wrapper = OptimWrapper(torch.optim.SGD([p], lr=0.1), clip_grad=dict(max_norm=35))
    assert double_clip_message(wrapper) is None
