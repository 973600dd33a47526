"""Tensors that NVIDIA's ``FusedLAMB`` loses or pairs wrongly, and that our LAMB on it does not.

Each test shows the trap in NVIDIA's class itself, on the emulation of its extension, and then our
backend beside it. How to run these is in test_nvidias_class.py.
"""

import pytest
import torch
from helpers.optimizers.apex_emulation import in_memory
from helpers.optimizers.groups import (
    SHAPES,
    as_arrays,
    assert_close,
    make_groups,
    parameters,
    set_gradients,
)
from helpers.optimizers.nvidias_apex import (
    is_close,
    on_apex,
    refusal,
    require_source,
    train,
    values,
)
from helpers.optimizers.reference import ReferenceLAMB

require_source()

DENSE = SHAPES[:-1]


def test_an_empty_tensor_at_the_end_loses_the_launch(fused_lamb):
    """It is last of the second group and of all gradients: that group stays, the first is not
    clipped."""
    shapes = [DENSE, SHAPES]

    def groups():
        return [make_groups(shapes=of_group, options=({},))[0] for of_group in shapes]

    bare = groups()
    before = values(bare[1:])
    unclipped = train(fused_lamb(bare), bare, scale=3.0, max_grad_norm=None)
    assert all(torch.equal(p, q) for p, q in zip(values(bare[1:]), before, strict=True))
    del bare[1:], unclipped.groups[1:]
    assert_close(bare, unclipped)
    ours = groups()
    assert_close(ours, train(on_apex(ours), ours, scale=3.0))


def test_an_empty_tensor_in_the_last_place_of_a_launch_writes_past_its_end(fused_lamb):
    """36 tensors are one launch of stage 1; on a GPU the next one lands in other memory."""
    shapes = [*[(2,)] * 35, (0,), (2,)]
    bare = make_groups(shapes=shapes)
    with pytest.raises(IndexError, match='past the 36 places'):
        train(fused_lamb(bare), bare)
    ours = make_groups(shapes=shapes)
    assert_close(ours, train(on_apex(ours), ours))


def convolution(memory_format=torch.channels_last):
    groups = make_groups(shapes=[(4, 3, 5, 5), (6,)], options=({},))
    conv = groups[0]['params'][0]
    conv.data = conv.data.to(memory_format=memory_format)
    return groups


def test_a_gradient_in_another_memory_format_is_paired_wrongly(fused_lamb):
    """The weight is in channels_last, its gradient is not: no error, other elements."""
    bare = convolution()
    optimizer, conv = fused_lamb(bare), bare[0]['params'][0]
    reference, mispaired = (ReferenceLAMB(as_arrays(bare)) for _ in range(2))
    grads = set_gradients(bare, 0)
    assert conv.grad.is_contiguous()
    reference.step(grads)
    seen = torch.empty_like(conv)
    in_memory(seen.data, seen.dtype).copy_(conv.grad.flatten())
    mispaired.step([[seen.detach().numpy(), *grads[0][1:]]])
    optimizer.step()
    assert_close(bare, mispaired)
    assert not is_close(bare, reference)
    ours = convolution()
    assert_close(ours, train(on_apex(ours), ours))


def test_moments_of_a_checkpoint_in_another_memory_format_are_paired_wrongly(fused_lamb):
    """Trained with contiguous weights, gone on with in channels_last, as mixed precision likes."""

    def resumed(make):
        groups = convolution(torch.contiguous_format)
        optimizer = make(groups)
        reference = train(optimizer, groups)
        moved = convolution()
        for p, q in zip(parameters(moved), parameters(groups), strict=True):
            p.data.copy_(q)
        heir = make(moved)
        heir.load_state_dict(optimizer.state_dict())
        for step in (3, 4):
            reference.step(set_gradients(moved, step))
            for p in parameters(moved):  # the gradients are as the weights
                p.grad = torch.empty_like(p).copy_(p.grad)
            heir.step()
        return moved, reference

    assert not is_close(*resumed(fused_lamb))
    assert_close(*resumed(on_apex))


def test_a_gradient_with_gaps_in_memory_fails_at_the_step(fused_lamb):
    def spread(groups):
        for p in parameters(groups):
            wide = torch.zeros(*p.shape, 2)
            wide[..., 0] = p.grad
            p.grad = wide[..., 0]

    bare = make_groups(shapes=[(5, 3)])
    with pytest.raises(RuntimeError, match='not contiguous'):
        train(fused_lamb(bare), bare, change=spread)
    ours = make_groups(shapes=[(5, 3)])
    assert_close(ours, train(on_apex(ours), ours, change=spread))
    ours[0]['params'][0].data = torch.ones(3, 5).t()
    assert 'Apex needs contiguous or channels_last parameters' in refusal(ours)


def test_the_dtype_of_the_first_gradient_is_taken_for_that_of_all(fused_lamb):
    """PyTorch allows another one where ``grad_dtype`` says so. Of float16, it lets half of the
    parameter's memory be overwritten by float16 numbers."""

    def halve(groups):
        for p in parameters(groups):
            p.grad_dtype = None
            p.grad = p.grad.half()

    bare = make_groups(shapes=[(20,)], options=({},))
    (before,) = values(bare)
    assert not is_close(bare, train(fused_lamb(bare), bare, 1, halve))
    (after,) = values(bare)
    assert torch.equal(before[10:], after[10:]) and not (before[:10] == after[:10]).any()
    ours = make_groups(shapes=[(20,)])
    assert_close(ours, train(on_apex(ours), ours, 1, halve))
