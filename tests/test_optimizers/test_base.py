"""Parts that LAMB and LARS share: norms, closures, gradients, checkpoints, copies."""

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers.optimizers.groups import lockstep, make_groups, parameters, set_gradients
from mmdet.registry import OPTIMIZERS

from mmdet_largebatch.optimizers import LAMB, LARS
from mmdet_largebatch.optimizers.norms import l2_norm


@pytest.mark.parametrize('size', [0, 1, 1023, 1024, 1025, 65_535, 65_536, 65_537, 3_000_001])
@pytest.mark.parametrize('kind', ['normal', 'equal'])
def test_norm_is_good_to_a_few_units_of_the_last_place(size, kind):
    torch.manual_seed(0)
    x = torch.full((size,), 0.1) if kind == 'equal' else torch.randn(size)
    expected = np.sqrt(np.sum(np.square(x.double().numpy())))
    norm = l2_norm(x)
    assert (norm.dtype, norm.shape) == (torch.float32, ())
    np.testing.assert_allclose(norm.item(), expected, rtol=5e-7)


def test_norm_takes_any_layout_and_shows_nan_and_infinity():
    torch.manual_seed(0)
    x = torch.randn(8, 16, 9, 9).to(memory_format=torch.channels_last)[:, ::2]
    np.testing.assert_allclose(l2_norm(x), np.linalg.norm(x.double().flatten()), rtol=5e-7)
    for special in (float('nan'), float('inf')):
        y = torch.ones(5000)
        y[4999] = special
        np.testing.assert_equal(l2_norm(y).item(), special)


@pytest.mark.parametrize('kind', [LAMB, LARS])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_float32_state_of_half_parameters_survives_bit_for_bit(kind, dtype):
    """torch's own load_state_dict would round it to the parameters' dtype."""
    p, q = (torch.nn.Parameter(torch.linspace(1, 2, 50).to(dtype)) for _ in range(2))
    optimizer, fresh = kind([p], lr=0.1), kind([q], lr=0.1)
    for _ in range(3):
        p.grad = torch.linspace(-1, 1, 50).to(dtype)
        optimizer.step()
    q.data.copy_(p)
    fresh.load_state_dict(optimizer.state_dict())
    for name, value in optimizer.state[p].items():
        assert not torch.equal(value, value.to(dtype).float())  # it has more than dtype holds
        assert fresh.state[q][name].dtype == torch.float32
        assert torch.equal(fresh.state[q][name], value)


def test_a_users_load_hook_is_heard_for_half_parameters_too():
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = LARS([p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    changed = {'momentum_buffer': torch.full((3,), 1 / 3)}
    optimizer.register_load_state_dict_pre_hook(lambda _, loaded: {**loaded, 'state': {0: changed}})
    optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(optimizer.state[p]['momentum_buffer'], torch.full((3,), 1 / 3))
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1


@pytest.mark.parametrize('kind', [LAMB, LARS])
def test_a_checkpoint_of_other_groups_is_refused(kind):
    p, q = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match='different number of parameter groups'):
        kind([p], lr=0.1).load_state_dict(kind([{'params': p}, {'params': q}], lr=0.1).state_dict())


@pytest.mark.parametrize('kind', [LAMB, LARS])
@pytest.mark.parametrize('named', [False, True])
def test_a_sparse_gradient_is_refused_before_anything_changes(kind, named):
    model = torch.nn.ModuleDict(
        {'linear': torch.nn.Linear(2, 2), 'embedding': torch.nn.Embedding(5, 2, sparse=True)}
    )
    optimizer = kind(model.named_parameters() if named else model.parameters(), lr=0.1)
    model['linear'](model['embedding'](torch.tensor([1, 3]))).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(RuntimeError) as error:
        optimizer.step()
    place = "'embedding.weight'" if named else '2 of group 0'
    assert str(error.value) == (
        f'{kind.__name__} does not support sparse gradients, as that of parameter {place}, '
        'shape (5, 2). Must be dense (sparse=False).'
    )
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert not optimizer.state and 'step' not in optimizer.param_groups[0]


# Every option that adds a term to the update or a group of another kind.
KINDS = pytest.mark.parametrize(
    ('kind', 'options', 'group'),
    [
        (LAMB, dict(adam_w_mode=False, backend='torch'), dict(use_nvlamb=True)),
        (LARS, dict(nesterov=True), dict(lars_exclude=True)),
    ],
)


def trained(kind, options, group, dtype=torch.float32):
    """An optimizer after 5 steps; its second group differs from the first."""
    optimizer = kind(make_groups(dtype=dtype, options=({}, group)), lr=0.01, **options)
    for step in range(5):
        set_gradients(optimizer.param_groups, step)
        optimizer.step()
    return optimizer


@KINDS
def test_closure_runs_with_gradients_and_its_loss_comes_back(kind, options, group):
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([{'params': [p], **group}], lr=0.1, **options)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert not torch.equal(p, torch.ones(3))


@KINDS
def test_gradients_are_left_as_they_are(kind, options, group):
    optimizer = trained(kind, options, group)
    set_gradients(optimizer.param_groups, 5, scale=10.0)
    before = [(p.grad, p.grad.clone()) for p in parameters(optimizer.param_groups)]
    optimizer.step()
    for p, (grad, value) in zip(parameters(optimizer.param_groups), before, strict=True):
        assert p.grad is grad and torch.equal(grad, value)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
@KINDS
def test_a_resumed_run_continues_bit_for_bit(kind, options, group, dtype, tmp_path):
    optimizer = trained(kind, options, group, dtype)
    torch.save(optimizer.state_dict(), tmp_path / 'optimizer.pth')
    groups = make_groups(seed=9, dtype=dtype, options=({}, group))
    for p, q in zip(parameters(groups), parameters(optimizer.param_groups), strict=True):
        p.data.copy_(q)
    fresh = kind(groups, lr=1.0, **options)
    fresh.load_state_dict(torch.load(tmp_path / 'optimizer.pth', weights_only=True))
    lockstep(optimizer, fresh, 5, seed=100)


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@KINDS
def test_copies_run_in_lockstep(kind, options, group, duplicate):
    optimizer = trained(kind, options, group)
    clone = duplicate(optimizer)
    # PyTorch adds an entry of its own.
    assert clone.defaults.items() >= optimizer.defaults.items()
    assert getattr(clone, 'backend', None) == getattr(optimizer, 'backend', None)
    assert clone.state_dict()['param_groups'] == optimizer.state_dict()['param_groups']
    lockstep(optimizer, clone, 5)


@pytest.mark.parametrize('kind', [LAMB, LARS])
def test_config_builds_it_from_mmdets_registry(kind):
    cfg = dict(type=kind.__name__, params=[torch.nn.Parameter(torch.ones(2))], lr=0.1)
    assert type(OPTIMIZERS.build(cfg)) is kind
