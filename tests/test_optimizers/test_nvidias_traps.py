"""Traps in NVIDIA's ``FusedLAMB``, and that our LAMB on it avoids them.

Each test shows the trap in NVIDIA's class itself, on the emulation of its extension, and then our
backend beside it. Those of tensors and memory are in test_nvidias_memory.py, the launches that each
parameter group costs in test_nvidias_class.py, which says how to run these.
"""

import math

import numpy as np
import pytest
import torch
from helpers.optimizers.apex_emulation import AmpC
from helpers.optimizers.groups import (
    SHAPES,
    as_arrays,
    assert_close,
    gradients,
    make_groups,
    parameters,
    set_gradients,
)
from helpers.optimizers.nvidias_apex import (
    importable,
    is_close,
    on_apex,
    refusal,
    require_source,
    train,
    values,
)
from helpers.optimizers.reference import ReferenceLAMB
from mmengine.optim import OptimWrapper

from mmdet_largebatch.optimizers import LAMB, double_clip_message

require_source()

DENSE = SHAPES[:-1]


def test_the_update_is_written_over_the_gradients(fused_lamb):
    """u is g / (|g| + eps) in the first step without decay and clip."""
    options = dict(weight_decay=0.0, eps=0.5, max_grad_norm=math.inf)
    groups = make_groups(shapes=DENSE, options=({},))
    optimizer = fused_lamb(groups, **options)
    (before,) = set_gradients(groups, 0)
    optimizer.step()
    for g, u in zip(before, gradients(groups)[0], strict=True):
        np.testing.assert_allclose(u, g / (np.abs(g) + 0.5), rtol=2e-6)
    # Accumulated onto these, the next gradients would be wrong.
    groups = make_groups(shapes=DENSE, options=({},))
    train(on_apex(groups, **options), groups, 1)
    assert all(p.grad is None for p in parameters(groups))


def test_zero_grad_takes_no_set_to_none(fused_lamb):
    groups = make_groups(shapes=DENSE)
    with pytest.raises(TypeError, match='set_to_none'):
        OptimWrapper(fused_lamb(groups)).zero_grad(set_to_none=False)
    set_gradients(groups, 0)
    OptimWrapper(on_apex(groups)).zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in parameters(groups))


def test_bfloat16_fails_at_the_step(fused_lamb):
    groups = make_groups(shapes=DENSE, dtype=torch.bfloat16, options=({'lr': 0.1},))
    with pytest.raises(RuntimeError, match='only support fp16 and fp32'):
        train(fused_lamb(groups), groups)
    assert 'Apex keeps float32 moments for float32 parameters only' in refusal(groups)
    optimizer = LAMB(groups)
    assert optimizer.running_backend == 'torch'
    assert_close(groups, train(optimizer, groups), rtol=0, atol=0.03)


def test_float16_has_float16_moments(fused_lamb):
    """Gradients of 1e-3: v is 1e-9 after a step, and float16 ends at 6e-8."""
    groups = make_groups(shapes=DENSE, dtype=torch.float16)
    optimizer = fused_lamb(groups)
    train(optimizer, groups, 1, scale=1e-3)
    assert all(not optimizer.state[p]['exp_avg_sq'].any() for p in parameters(groups))
    assert 'Apex keeps float32 moments for float32 parameters only' in refusal(groups)
    optimizer = LAMB(groups)
    train(optimizer, groups, 1, scale=1e-3)
    assert all(optimizer.state[p]['exp_avg_sq'].all() for p in parameters(groups))


def test_parameters_on_a_cpu_fail_at_the_step():
    """Here, and only here, a CPU's tensors do not pass for a GPU's."""
    groups = make_groups(shapes=DENSE)
    with importable(AmpC(gpu='cuda')):
        from apex.optimizers import FusedLAMB

        with pytest.raises(RuntimeError, match='expected input to be on cuda'):
            train(FusedLAMB(groups), groups)
        assert 'Apex needs CUDA parameters, and one is on cpu (parameter 0 of' in refusal(groups)
        assert LAMB(groups).running_backend == 'torch'


def test_without_the_extension_it_is_imported_and_does_not_construct():
    groups = make_groups(shapes=DENSE)
    with importable(None):
        from apex.optimizers import FusedLAMB

        with pytest.raises(RuntimeError, match='requires cuda extensions'):
            FusedLAMB(groups)
        assert 'installed without a working CUDA extension amp_C' in refusal(groups)
        assert LAMB(groups).running_backend == 'torch'


def test_gradients_are_clipped_at_1_unasked(fused_lamb):
    """So with an optim wrapper that clips too they are clipped twice, of which ours warns."""
    for make in (fused_lamb, on_apex):
        groups = make_groups(shapes=DENSE)
        start = as_arrays(groups)
        grads = [set_gradients(groups, step, scale=step) for step in range(3)]
        clipped, unclipped = ReferenceLAMB(start), ReferenceLAMB(start, max_grad_norm=None)
        optimizer = make(groups)
        for step, of_step in enumerate(grads):
            set_gradients(groups, step, scale=step)
            clipped.step(of_step)
            unclipped.step(of_step)
            optimizer.step()
        assert_close(groups, clipped)
        assert not is_close(groups, unclipped)
    wrapper = OptimWrapper(optimizer, clip_grad=dict(max_norm=35))
    assert 'max_grad_norm=1.0. Set max_grad_norm=None' in double_clip_message(wrapper)


def test_max_grad_norm_is_read_from_the_defaults_alone(fused_lamb):
    groups = make_groups(shapes=DENSE, options=({'max_grad_norm': 1e-3}, {}))
    assert_close(groups, train(fused_lamb(groups), groups, scale=3.0))
    message = refusal(make_groups(shapes=DENSE, options=({'max_grad_norm': 1e-3}, {})))
    assert 'Invalid max_grad_norm=0.001 in a parameter group. Must be 1.0' in message


def test_max_grad_norm_none_fails_at_the_step(fused_lamb):
    groups = make_groups(shapes=DENSE)
    with pytest.raises(TypeError, match='NoneType'):
        train(fused_lamb(groups, max_grad_norm=None), groups)
    groups = make_groups(shapes=DENSE)
    optimizer = on_apex(groups, max_grad_norm=None)
    assert_close(groups, train(optimizer, groups, scale=3.0, max_grad_norm=None))


def test_a_step_that_is_a_float_fails_at_the_step(fused_lamb):
    groups = make_groups(shapes=DENSE)
    optimizer = on_apex(groups)
    train(optimizer, groups)
    checkpoint = optimizer.state_dict()
    for group in checkpoint['param_groups']:
        group['step'] = 3.0
    bare = fused_lamb(make_groups(shapes=DENSE))
    bare.load_state_dict(checkpoint)
    with pytest.raises(TypeError, match='for an int'):
        train(bare, bare.param_groups)
    optimizer.load_state_dict(checkpoint)
    train(optimizer, groups, 1)
    assert [group['step'] for group in optimizer.param_groups] == [4, 4]


def test_a_first_group_without_parameters_does_not_construct(fused_lamb):
    def groups():
        return [{'params': []}, *make_groups(shapes=DENSE)]

    with pytest.raises(IndexError):
        fused_lamb(groups())
    ours = groups()
    assert_close(ours, train(on_apex(ours), ours))


def test_the_step_of_a_group_advances_without_a_gradient_which_ours_keeps(fused_lamb):
    """A tensor that starts at the third update is corrected for less bias than it has."""
    for make in (fused_lamb, on_apex):
        groups = make_groups(shapes=DENSE, options=({}, {}))
        optimizer = make(groups)
        reference = ReferenceLAMB(as_arrays(groups))
        for step in range(4):
            set_gradients(groups, step)
            for p in [groups[0]['params'][1], *groups[1]['params']] if step < 2 else []:
                p.grad = None
            reference.step(gradients(groups))
            optimizer.step()
        assert [group['step'] for group in optimizer.param_groups] == [4, 4]
        assert_close(groups, reference)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_sets_a_flag_that_nothing_heeds(fused_lamb, bad):
    """It spoils its own tensor alone: the norm of all is NaN, which does not clip, or infinite,
    which makes the other gradients 0. The same as on PyTorch."""

    def spoil(groups):
        for group in groups:
            group['params'][1].grad[2] = bad

    results = []
    for make in (fused_lamb, on_apex, lambda groups: LAMB(groups, backend='torch')):
        groups = make_groups(shapes=DENSE)
        optimizer = make(groups)
        reference = train(optimizer, groups, 1, spoil)
        results.append([p.isnan().tolist() for p in values(groups)])
        assert_close(groups, reference)
        if make is fused_lamb:
            assert optimizer._dummy_overflow_buf.item() == 1
        # The next update, of finite gradients, is made whatever the flag says.
        before = values(groups)
        set_gradients(groups, 1)
        optimizer.step()
        assert not any(torch.equal(p, q) for p, q in zip(values(groups), before, strict=True))
    assert results[0] == results[1] == results[2]
    assert [np.any(spoilt) for spoilt in results[0]] == [i % 4 == 1 for i in range(8)]


def test_one_minus_beta2_is_taken_in_float32(fused_lamb):
    """Of gradients of 1, v after 200 updates is 1 - beta2^200, with beta2 the nearest float."""
    beta2 = float(np.float32(0.999))
    for make in (fused_lamb, on_apex):
        groups = [{'params': [torch.nn.Parameter(torch.ones(1))]}]
        optimizer = make(groups)
        for _ in range(200):
            groups[0]['params'][0].grad = torch.ones(1)
            optimizer.step()
        v = optimizer.state[groups[0]['params'][0]]['exp_avg_sq'].item()
        assert abs(v / (1 - beta2**200) - 1) < 1e-6
        assert abs(v / (1 - 0.999**200) - 1) > 1e-5
