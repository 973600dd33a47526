"""The emulation of Apex's extension by itself: its launches by formula, its numbers in float64.

What it takes from NVIDIA's sources are the limits of a launch and the habits named here; NVIDIA's
class on top of it is in test_nvidias_class.py and test_nvidias_traps.py.
"""

import random

import numpy as np
import pytest
import torch

from .apex_emulation import MAX_TENSORS, AmpC, plan_launches
from .helpers import SHAPES, as_arrays, assert_close, gradients, make_groups, set_gradients
from .reference import LAMB_DEFAULTS, ReferenceLAMB

FLAG = [0]


def lists_of(groups, state):
    """Gradients, parameters and moments of the parameters that have gradients, per group."""
    for group in groups:
        members = [p for p in group['params'] if p.grad is not None]
        for p in members:
            if p not in state:
                state[p] = torch.zeros_like(p.data), torch.zeros_like(p.data)
        lists = [[p.grad for p in members], [p.data for p in members]]
        yield group, [*lists, *([state[p][i] for p in members] for i in (0, 1))]


def step(amp_C, groups, state, number, chunk_size, max_grad_norm=1.0):
    """One update of all groups by calls of the extension alone."""
    flag = torch.tensor(FLAG, dtype=torch.int)
    G, _ = amp_C.multi_tensor_l2norm(
        chunk_size,
        flag,
        [[p.grad for g in groups for p in g['params'] if p.grad is not None]],
        False,
    )
    for group, lists in lists_of(groups, state):
        k = {**LAMB_DEFAULTS, **group}
        amp_C.multi_tensor_lamb(
            chunk_size,
            flag,
            lists,
            k['lr'],
            *k['betas'],
            k['eps'],
            number,
            int(k['bias_correction']),
            k['weight_decay'],
            int(k['grad_averaging']),
            int(k['adam_w_mode']),
            G,
            max_grad_norm,
            k['use_nvlamb'],
        )
    return flag


@pytest.mark.parametrize('depth', MAX_TENSORS)
def test_a_launch_takes_so_many_tensors(depth):
    most = MAX_TENSORS[depth]
    for tensors in (1, most, most + 1, 3 * most, 3 * most + 1):
        assert len([*plan_launches([5] * tensors, depth, 5)]) == -(-tensors // most)


@pytest.mark.parametrize('depth', [1, 2, 4])
def test_a_launch_has_320_blocks_and_may_end_within_a_tensor(depth):
    for chunks in (1, 320, 321, 1000):
        planned = [*plan_launches([4 * chunks - 3], depth, 4)]
        assert [len(blocks) for blocks in planned] == [
            min(320, chunks - done) for done in range(0, chunks, 320)
        ]
    # 36 of 10 chunks: the 32nd ends the first launch. 36 of 9: the 36th tensor is cut at its 5th.
    assert [len(b) for b in plan_launches([40] * 36, 4, 4)] == [320, 40]
    cut = [*plan_launches([36] * 36, 4, 4)]
    assert (cut[0][-1], cut[1][0], len(cut)) == ((35, 4), (35, 5), 2)
    # A tensor that goes on counts once more in the next launch: 35 of the next 36 fit beside it.
    assert [b[-1] for b in plan_launches([36] * 36 + [1] * 36, 4, 4)] == [(35, 4), (70, 0), (71, 0)]


def test_every_chunk_is_in_one_block_and_no_limit_is_passed():
    draw = random.Random(0)
    for _ in range(200):
        depth, tensors = draw.choice([1, 2, 4]), draw.randint(1, 150)
        sizes = [draw.choice([1, 7, 8, 9, 100, 3000]) for _ in range(tensors)]
        planned = [*plan_launches(sizes, depth, 8)]
        blocks = [block for launch in planned for block in launch]
        assert blocks == [(t, c) for t, size in enumerate(sizes) for c in range((size + 7) // 8)]
        assert max(map(len, planned)) <= 320
        assert max(len({t for t, _ in launch}) for launch in planned) <= MAX_TENSORS[depth]


def test_an_empty_tensor_at_the_end_loses_the_pending_launch():
    assert [*plan_launches([5, 0, 5], 4, 5)] == [[(0, 0), (2, 0)]]
    assert [*plan_launches([5, 5, 0], 4, 5)] == []
    full = [(t, 0) for t in range(36)]
    assert [*plan_launches([5] * 36 + [0], 4, 5)] == [full]
    assert [*plan_launches([5] * 38 + [0], 4, 5)] == [full]


def test_an_empty_tensor_in_the_last_place_of_a_launch_writes_past_its_end():
    with pytest.raises(IndexError, match='tensor 36 is written past the 36 places'):
        [*plan_launches([5] * 35 + [0, 5], 4, 5)]
    assert len([*plan_launches([5] * 34 + [0, 5, 5], 4, 5)]) == 2


@pytest.mark.parametrize('chunk_size', [3, 65_536])
def test_norms_are_those_of_numpy_across_launches(chunk_size):
    """180 tensors; in chunks of 3, most launches are cut within a tensor."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(5, 4, 3, 2), (1,), (1000,)] * 60
    tensors = [torch.randn(shape, generator=draw) for shape in shapes]
    tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    amp_C, flag = AmpC(), torch.tensor(FLAG, dtype=torch.int)
    G, norms = amp_C.multi_tensor_l2norm(chunk_size, flag, [tensors], True)
    arrays = [x.double().numpy() for x in tensors]
    expected = [np.sqrt(np.square(a).sum()) for a in arrays]
    np.testing.assert_allclose(norms.numpy(), expected, rtol=2e-6)
    np.testing.assert_allclose(G.item(), np.sqrt(np.square(expected).sum()), rtol=2e-6)
    # 60 x (40 + 1 + 334) chunks of 3 and 320 a launch; or 180 tensors and 110 a launch.
    launches = {3: 71, 65_536: 2}[chunk_size]
    assert amp_C.launches == ['l2norm'] * launches + ['cleanup']
    assert amp_C.multi_tensor_l2norm(chunk_size, flag, [tensors], False)[1].numel() == 0
    assert flag.item() == 0


OPTIONS = {
    'defaults': {},
    'decay in the gradient': {'adam_w_mode': False},
    'ratio for all': {'use_nvlamb': True},
    'no bias correction': {'bias_correction': False},
    'no averaging': {'grad_averaging': False},
    'other numbers': {'betas': (0.8, 0.95), 'eps': 1e-3, 'lr': 0.1, 'weight_decay': 0.3},
}


@pytest.mark.parametrize(
    ('chunk_size', 'steps', 'options'),
    [*((65_536, 12, options) for options in OPTIONS.values()), (3, 3, {})],
    ids=[*OPTIONS, 'small chunks'],
)
def test_updates_equal_the_reference(chunk_size, steps, options):
    """43 tensors, so two launches of stage 1; in chunks of 3, some are cut within a tensor."""
    decays = ({}, {'weight_decay': 0.0})
    groups = make_groups(
        shapes=[(500,), *SHAPES, *[(3, 2)] * 36, (7, 71)],
        options=[{**options, **decay} for decay in decays],
    )
    groups[0]['params'][0].data.zero_()  # a norm of 0, where the ratio is 1
    reference = ReferenceLAMB(as_arrays(groups))
    amp_C, state = AmpC(), {}
    for number in range(1, steps + 1):
        for group in groups + reference.groups:
            group['lr'] = options.get('lr', 1e-3) * (number % 4)
        reference.step(set_gradients(groups, number, scale=(0.01, 1.0)[number % 2]))
        step(amp_C, groups, state, number, chunk_size)
    assert_close(groups, reference)
    for group, expected in zip(groups, reference.groups, strict=True):
        for p, m, v in zip(group['params'], expected['m'], expected['v'], strict=True):
            np.testing.assert_allclose(state[p][0].numpy(), m, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(state[p][1].numpy(), v, rtol=1e-5)


def test_the_update_is_left_in_the_gradient():
    """In the first step m / bc1 is g and v / bc2 is g squared, so u is g / (|g| + eps)."""
    groups = make_groups(shapes=SHAPES[:-1], options=({'weight_decay': 0.0, 'eps': 0.5},))
    before = set_gradients(groups, 0)
    step(AmpC(), groups, {}, 1, 7, max_grad_norm=float('inf'))
    for g, u in zip(before[0], gradients(groups)[0], strict=True):
        np.testing.assert_allclose(u, g / (np.abs(g) + 0.5), rtol=2e-6)


def test_elements_are_paired_by_memory():
    """A gradient in channels_last, beside a parameter that is not: other elements meet."""
    (group,) = groups = make_groups(shapes=[(4, 3, 2, 2)], options=({},))
    reference = ReferenceLAMB(as_arrays(groups))
    (p,) = group['params']
    set_gradients(groups, 0)
    p.grad = p.grad.to(memory_format=torch.channels_last)
    reference.step([[p.grad.permute(0, 2, 3, 1).reshape(p.shape).numpy()]])
    step(AmpC(), groups, {}, 1, 65_536)
    assert_close(groups, reference)


def test_scalars_are_floats():
    """v after 200 gradients of 1 is 1 - beta2^200, but for what 1 - beta2 is worth in float32."""
    groups = [{'params': [torch.nn.Parameter(torch.ones(1))]}]
    state, amp_C = {}, AmpC()
    for number in range(1, 201):
        groups[0]['params'][0].grad = torch.ones(1)
        step(amp_C, groups, state, number, 65_536)
    (v,) = (moments[1].item() for moments in state.values())
    beta2 = float(np.float32(0.999))
    assert abs(v / (1 - beta2**200) - 1) < 1e-6
    assert abs(v / (1 - 0.999**200) - 1) > 1e-5


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_the_flag_is_set_and_nothing_heeds_it(bad):
    groups = make_groups(shapes=[(3,), (2,)])
    reference = ReferenceLAMB(as_arrays(groups))
    set_gradients(groups, 0)
    groups[0]['params'][0].grad[1] = bad
    reference.step(gradients(groups))
    assert step(AmpC(), groups, {}, 1, 65_536).item() == 1
    assert_close(groups, reference)
    assert groups[0]['params'][0].isnan().any() and not groups[1]['params'][0].isnan().any()


def test_half_precision_has_half_precision_moments():
    groups = make_groups(shapes=SHAPES[:-1], dtype=torch.float16, options=({'lr': 0.1},))
    reference = ReferenceLAMB(as_arrays(groups))
    reference.step(set_gradients(groups, 0))
    state = {}
    step(AmpC(), groups, state, 1, 65_536)
    assert {x.dtype for moments in state.values() for x in moments} == {torch.float16}
    assert_close(groups, reference, rtol=1e-3, atol=1e-2)


def refused(change, gpu='cpu', **scalars):
    """Call multi_tensor_lamb with something changed; returns what the error says."""
    lists = [[torch.ones(2, 2)] for _ in range(4)]
    change(lists)
    scalars = {'lr': 0.1, 'step': 1, 'max_grad_norm': 1.0} | scalars
    rest = dict(beta1=0.9, beta2=0.99, epsilon=1e-6, bias_correction=1, weight_decay=0.0)
    rest |= dict(grad_averaging=1, mode=1, global_grad_norm=torch.ones(1), use_nvlamb=False)
    flag = torch.tensor(FLAG, dtype=torch.int)
    with pytest.raises((RuntimeError, TypeError)) as error:
        AmpC(gpu).multi_tensor_lamb(8, flag, lists, **rest, **scalars)
    return str(error.value)


def test_what_is_refused():
    def everywhere(x):
        return lambda lists: [one.__setitem__(0, x) for one in lists]

    assert 'expected input to be on cuda' in refused(lambda lists: None, gpu='cuda')
    assert 'not implemented' in refused(everywhere(torch.ones(2).bfloat16()))
    assert 'not implemented' in refused(everywhere(torch.ones(2).double()))
    assert 'not contiguous' in refused(everywhere(torch.ones(2, 3).t()))
    assert 'Size mismatch' in refused(lambda lists: lists[2].append(torch.ones(1)))
    assert 'Size mismatch' in refused(lambda lists: lists[2].__setitem__(0, torch.ones(3)))
    assert 'same device' in refused(
        lambda lists: lists[2].__setitem__(0, torch.ones(2, 2, device='meta'))
    )
    assert 'NoneType' in refused(lambda lists: None, max_grad_norm=None)
    assert 'for an int' in refused(lambda lists: None, step=1.0)
    # A bfloat16 gradient among float32 tensors is half as long as what is read.
    assert refused(lambda lists: lists[2].__setitem__(0, torch.ones(2, 2).bfloat16()))
