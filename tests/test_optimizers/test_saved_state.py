"""A state that is not of the optimizer's own parameters is refused, and no step is made on it."""

import copy
import json
import sys

import pytest
import torch
from helpers.common import ROOT

from mmdet_largebatch.errors import SettingError
from mmdet_largebatch.optimizers import LAMB, LARS

BOTH = pytest.mark.parametrize('kind', [LAMB, LARS])
FIRST = {LAMB: 'exp_avg', LARS: 'momentum_buffer'}


def trained(kind, outputs=4, named=True):
    model = torch.nn.Linear(128, outputs)
    optimizer = kind(model.named_parameters() if named else model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(2, 128)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def fuzz(command, cases):
    """In a process of its own, which a wrong answer may end."""
    done = command(
        sys.executable, '-m', 'helpers.optimizers.fuzz_loading', '--cases', cases,
        PYTHONPATH=f'{ROOT}:{ROOT / "tests"}', timeout=3600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert sum(counts.values()) == cases and min(counts.values()) > cases / 4
    return counts


@pytest.mark.slow
def test_states_changed_at_random_are_refused_or_right(command):
    fuzz(command, 400)


@pytest.mark.whole
def test_ten_thousand_states_changed_at_random_are_refused_or_right(command):
    fuzz(command, 10_000)


@BOTH
@pytest.mark.parametrize('named', [True, False])
def test_a_head_of_another_size_is_refused_by_name(kind, named):
    _, smaller = trained(kind, 4, named)
    model, larger = trained(kind, 6, named)
    twin = copy.deepcopy(larger)
    with pytest.raises(SettingError) as error:
        larger.load_state_dict(smaller.state_dict())
    place = "parameter 'weight'" if named else 'parameter 0 of group 0'
    assert str(error.value) == (
        f'{kind.__name__} cannot take the optimizer state of the checkpoint: {place}, shape '
        f'(6, 128), has {FIRST[kind]} of shape (4, 128) there. Must be of the same shape. To begin '
        'from the weights of the checkpoint alone, give it as load_from without resume.'
    )
    assert repr(larger.state_dict()) == repr(twin.state_dict())
    for _ in range(50):
        larger.step()
    assert all(p.isfinite().all() for p in model.parameters())


@BOTH
def test_parameters_in_another_order_are_refused(kind):
    _, optimizer = trained(kind)
    model = torch.nn.Linear(128, 4)
    other = kind([('bias', model.bias), ('weight', model.weight)], lr=0.1)
    with pytest.raises(SettingError, match="parameter 'bias', shape .*, is 'weight' there"):
        other.load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize(
    'theirs',
    [torch.optim.SGD, lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9), torch.optim.AdamW],
)
@BOTH
def test_another_optimizers_state_is_refused(kind, theirs):
    model, optimizer = trained(kind)
    other = theirs(model.parameters(), lr=0.1)
    other.step()
    with pytest.raises(SettingError, match='cannot take the optimizer state of the checkpoint'):
        optimizer.load_state_dict(other.state_dict())


@BOTH
def test_a_loaded_state_shares_no_memory(kind):
    model, optimizer = trained(kind)
    saved = optimizer.state_dict()
    twin_model = copy.deepcopy(model)
    twin = kind(twin_model.named_parameters(), lr=0.01)
    twin.load_state_dict(saved)
    before = copy.deepcopy(saved)
    for p in twin_model.parameters():
        p.grad = torch.ones_like(p)
    twin.step()
    assert repr(saved['state']) == repr(before['state'])


def test_a_backend_that_cannot_be_had_leaves_the_optimizer_as_it_was(monkeypatch):
    _, optimizer = trained(LAMB)
    before = copy.deepcopy(optimizer.state_dict())

    def fail():
        raise SettingError('no')

    monkeypatch.setattr(optimizer, '_choose_backend', fail)
    saved = copy.deepcopy(before)
    saved['param_groups'][0]['lr'] = 0.5
    with pytest.raises(SettingError, match='no'):
        optimizer.load_state_dict(saved)
    assert repr(optimizer.state_dict()) == repr(before)


def set_state(model, optimizer, x):
    optimizer.state[model.weight][FIRST[type(optimizer)]] = x


CHANGES = {
    'shape of the state': (
        lambda m, o: set_state(m, o, torch.zeros(3, 128)), r'of shape \(3, 128\)'
    ),
    'fewer dimensions': (lambda m, o: set_state(m, o, torch.zeros(512)), r'of shape \(512,\)'),
    'dtype of the state': (
        lambda m, o: set_state(m, o, torch.zeros(4, 128).half()), 'of dtype torch.float16'
    ),
    'device of the state': (
        lambda m, o: set_state(m, o, torch.zeros(4, 128, device='meta')), 'on the meta device'
    ),
    'no tensor': (lambda m, o: set_state(m, o, [1.0]), 'is of type list'),
    'weight': (
        lambda m, o: setattr(m.weight, 'data', torch.zeros(6, 128)),
        r'shape \(6, 128\), its gradient is of shape \(4, 128\)',
    ),
    'gradient': (
        lambda m, o: setattr(m.weight.grad, 'data', torch.zeros(2, 128)), r'of shape \(2, 128\)'
    ),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize(('change', 'words'), CHANGES.values(), ids=CHANGES)
def test_no_step_is_made_on_tensors_that_do_not_match(kind, change, words):
    model, optimizer = trained(kind)
    change(model, optimizer)
    before = copy.deepcopy(list(model.parameters()))
    with pytest.raises(RuntimeError, match=f"^parameter 'weight', .*{words}.* Must be [^\n]*$"):
        optimizer.step()
    assert all(map(torch.equal, model.parameters(), before))


def test_one_moment_alone_makes_no_step():
    model, optimizer = trained(LAMB)
    del optimizer.state[model.weight]['exp_avg_sq']
    with pytest.raises(RuntimeError, match='its exp_avg_sq is of type NoneType'):
        optimizer.step()
