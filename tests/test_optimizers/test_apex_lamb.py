"""The choice between LAMB's backends, without a GPU and without Apex.

``StandIn`` has the interface of NVIDIA's class and computes nothing. The numbers of a step on Apex,
and the traps around it, are in test_nvidias_*.py, on NVIDIA's own class.
"""

import copy
import pickle
import sys
from types import ModuleType

import pytest
import torch
from helpers.optimizers.groups import make_groups, parameters, set_gradients

from mmdet_largebatch.errors import SettingError
from mmdet_largebatch.optimizers import LAMB, apex_lamb, lamb


class StandIn(torch.optim.Optimizer):
    """As in Apex, a step leaves something else in the gradients."""

    def __init__(self, params, adam_w_mode=True, use_nvlamb=False):
        super().__init__(params, dict(max_grad_norm=1.0))

    def step(self):
        for p in parameters(self.param_groups):
            p.grad.fill_(77.0)


def install(monkeypatch, fused_lamb=StandIn, amp_C=True, apex=True):
    """Let Python find an Apex, a broken one or none."""
    package, optimizers = ModuleType('apex'), ModuleType('apex.optimizers')
    if fused_lamb is not None:
        optimizers.FusedLAMB = fused_lamb
    monkeypatch.setitem(sys.modules, 'apex', package if apex else None)
    monkeypatch.setitem(sys.modules, 'apex.optimizers', optimizers)
    if not apex or fused_lamb is None:
        monkeypatch.delitem(sys.modules, 'apex.optimizers')
    monkeypatch.setitem(sys.modules, 'amp_C', ModuleType('amp_C') if amp_C else None)


@pytest.fixture
def gpu(monkeypatch):
    """CPU tensors pass for a GPU's."""
    monkeypatch.setattr(apex_lamb, 'is_on_gpu', lambda p: True)


@pytest.fixture
def apex(monkeypatch, gpu):
    install(monkeypatch)


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(lamb, 'print_log', lambda line, logger: lines.append(line))
    return lines


def one(**options):
    return [{'params': [torch.nn.Parameter(torch.ones(2, 3))], **options}]


def test_a_step_without_any_gradient_only_counts(apex):
    groups = make_groups()
    optimizer = LAMB(groups, backend='apex')
    before = [p.detach().clone() for p in parameters(groups)]
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(parameters(groups), before, strict=True))
    assert [group['step'] for group in optimizer.param_groups] == [1, 1]


def test_closure_loss_and_sparse_gradients_are_handled_before_apex(apex):
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = LAMB(table.parameters(), backend='apex')

    def closure():
        loss = table(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(RuntimeError, match='sparse gradients, as that of parameter 0 of group 0'):
        optimizer.step(closure)
    assert table.weight.grad is not None


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_has_the_same_backend_without_a_word(apex, log, duplicate):
    groups = make_groups()
    clone = duplicate(LAMB(groups, backend='auto'))
    assert (clone.running_backend, len(log)) == ('apex', 1)
    set_gradients(clone.param_groups, 0)
    clone.step()
    assert all(p.grad is None for p in parameters(clone.param_groups) if p.numel())


NO_FIT = {
    'not installed': (
        dict(apex=False),
        one,
        "NVIDIA's Apex is not installed (see docs/install.md).",
    ),
    'the other apex': (
        dict(fused_lamb=None),
        one,
        "the installed package 'apex' is not NVIDIA's, or is broken: it has no "
        "apex.optimizers.FusedLAMB (No module named 'apex.optimizers'; 'apex' is not a package). "
        'The one of that name on the Python index is a web-framework toolkit; '
        "see docs/install.md for NVIDIA's.",
    ),
    'no extension': (
        dict(amp_C=False),
        one,
        "NVIDIA's Apex is installed without a working CUDA extension amp_C "
        '(import of amp_C halted; None in sys.modules; see docs/install.md).',
    ),
    'does not construct': (
        dict(fused_lamb=lambda *args, **kwargs: 1 / 0),
        one,
        'its FusedLAMB could not be made (division by zero).',
    ),
    'no trust_clip': (
        {},
        lambda: one() + one(trust_clip=(0.1, 2.0)),
        'Apex has no trust_clip, and group 1 sets it.',
    ),
    'one adam_w_mode': (
        {},
        lambda: one() + one(adam_w_mode=False),
        'Apex has one adam_w_mode for all groups, and group 1 differs.',
    ),
    'one use_nvlamb': (
        {},
        lambda: one() + one(use_nvlamb=True),
        'Apex has one use_nvlamb for all groups, and group 1 differs.',
    ),
    'float16': (
        {},
        lambda: one() + [{'params': [torch.nn.Parameter(torch.ones(2, 3).half())]}],
        'Apex keeps float32 moments for float32 parameters only, and one is torch.float16 '
        '(parameter 0 of group 1, shape (2, 3)).',
    ),
    'layout': (
        {},
        lambda: [{'params': [torch.nn.Parameter(torch.ones(2, 3).t())]}],
        'Apex needs contiguous or channels_last parameters, and one is neither '
        '(parameter 0 of group 0, shape (3, 2)).',
    ),
    'devices': (
        {},
        lambda: one() + [{'params': [torch.nn.Parameter(torch.ones(2, device='meta'))]}],
        'Apex needs all parameters on one device, and one is on meta not cpu '
        '(parameter 0 of group 1, shape (2,)).',
    ),
    'no parameter': ({}, lambda: [{'params': []}], 'there is no parameter yet.'),
}


@pytest.mark.parametrize(('found', 'groups', 'reason'), NO_FIT.values(), ids=NO_FIT)
def test_where_apex_does_not_fit_it_is_refused_and_auto_takes_torch(
    monkeypatch, gpu, log, found, groups, reason
):
    install(monkeypatch, **found)
    with pytest.raises(SettingError) as error:
        LAMB(groups(), backend='apex')
    assert str(error.value) == f"Invalid backend='apex'. Must be 'auto' or 'torch' here: {reason}"
    assert log == []
    assert LAMB(groups()).running_backend == 'torch'
    assert log == [f'LAMB runs on PyTorch: {reason}']


def test_parameters_on_a_cpu_are_refused_by_name(monkeypatch):
    install(monkeypatch)
    with pytest.raises(SettingError) as error:
        LAMB(torch.nn.Linear(2, 2).named_parameters(), backend='apex')
    assert str(error.value) == (
        "Invalid backend='apex'. Must be 'auto' or 'torch' here: "
        'Apex needs CUDA parameters, and one is on cpu '
        "(parameter 'weight', shape (2, 2))."
    )


def test_backend_torch_is_never_apex(apex, log):
    assert LAMB(one(), backend='torch').running_backend == 'torch'
    assert log == ["LAMB runs on PyTorch: backend='torch'."]


def test_auto_follows_the_groups_and_says_so_once(apex, log):
    optimizer = LAMB(make_groups())
    assert log == ["LAMB runs on NVIDIA's Apex: it is installed and fits every parameter group."]
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.add_param_group(one()[0])
    assert (optimizer.running_backend, len(log)) == ('apex', 1)
    optimizer.add_param_group(one(trust_clip=(0.1, 2.0))[0])
    assert optimizer.running_backend == 'torch'
    assert log[1:] == ['LAMB runs on PyTorch: Apex has no trust_clip, and group 3 sets it.']


def test_a_group_that_apex_cannot_take_is_not_added_to_an_apex_optimizer(apex):
    groups = make_groups()
    optimizer = LAMB(groups, backend='apex')
    with pytest.raises(SettingError, match='Apex has no trust_clip, and group 2 sets it'):
        optimizer.add_param_group(one(trust_clip=(0.1, 2.0))[0])
    assert (len(optimizer.param_groups), optimizer.running_backend) == (2, 'apex')
    set_gradients(groups, 0)
    optimizer.step()
    assert groups[0]['params'][0].grad is None  # still Apex


def test_what_is_unpickled_elsewhere_finds_its_backend_there(apex, monkeypatch, log):
    auto, explicit = pickle.dumps(LAMB(one())), pickle.dumps(LAMB(one(), backend='apex'))
    del log[:]
    install(monkeypatch, apex=False)
    assert pickle.loads(auto).running_backend == 'torch'
    assert len(log) == 1
    with pytest.raises(SettingError, match='not installed'):
        pickle.loads(explicit)


def test_the_choice_is_logged_without_any_logger_set_up():
    assert LAMB(one(), backend='torch').running_backend == 'torch'
