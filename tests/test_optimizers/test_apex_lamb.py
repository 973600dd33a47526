"""LAMB on Apex, and the choice between the backends, without a GPU and without Apex.

``StandIn`` takes the place of NVIDIA's class: its interface, its habits and traps, but the float64
reference's arithmetic. So these tests prove the delegation: what is handed over, put right before,
written back, and refused. They prove nothing of NVIDIA's kernels; tests/gpu compares with those
where Apex is installed.
"""

import copy
import math
import pickle
import sys
from types import ModuleType

import pytest
import torch

from mmdet_largebatch.errors import SettingError
from mmdet_largebatch.optimizers import LAMB, apex_lamb, lamb

from .helpers import (
    as_arrays,
    assert_close,
    gradients,
    lockstep,
    make_groups,
    parameters,
    set_gradients,
)
from .reference import ReferenceLAMB


def in_memory(x):
    """A tensor's elements in the order of its memory, which is all that a fused kernel sees."""
    return x.as_strided((x.numel(),), (1,))


class StandIn(torch.optim.Optimizer):
    """FusedLAMB's interface: reads its groups, its state and ``defaults['max_grad_norm']``."""

    def __init__(self, params, adam_w_mode=True, use_nvlamb=False, max_grad_norm=1.0):
        super().__init__(params, dict(max_grad_norm=max_grad_norm))
        self.adam_w_mode, self.use_nvlamb = int(adam_w_mode), use_nvlamb

    def zero_grad(self):
        raise AssertionError('Apex knows no set_to_none; nobody may call this')

    @torch.no_grad()
    def step(self):
        assert self.param_groups[0]['params'][0].device == torch.device('cpu')  # Apex looks there
        assert isinstance(self.defaults['max_grad_norm'], float)
        lists, old_steps = [], []
        for group in self.param_groups:
            old_steps.append(group.get('step', 0))
            group['step'] = old_steps[-1] + 1
            members = [p for p in group['params'] if p.grad is not None]
            # The kernel launch that an empty last tensor would drop.
            members = members if members and members[-1].numel() else []
            for p in members:
                state = self.state[p]
                if len(state) == 0:
                    state['exp_avg'] = torch.zeros_like(p.data)
                    state['exp_avg_sq'] = torch.zeros_like(p.data)
            lists.append(members)
        names = ('weight_decay', 'lr', 'betas', 'eps', 'bias_correction', 'grad_averaging')
        reference = ReferenceLAMB(
            [
                {'params': [in_memory(p).numpy() for p in members]} | {k: group[k] for k in names}
                for group, members in zip(self.param_groups, lists, strict=True)
            ],
            self.defaults['max_grad_norm'],
            adam_w_mode=bool(self.adam_w_mode),
            use_nvlamb=self.use_nvlamb,
        )
        moments = [[self.state[p] for p in members] for members in lists]
        for group, states, old_step in zip(reference.groups, moments, old_steps, strict=True):
            group['step'] = old_step
            group['m'] = [in_memory(s['exp_avg']).double().numpy() for s in states]
            group['v'] = [in_memory(s['exp_avg_sq']).double().numpy() for s in states]
        reference.step([[in_memory(p.grad).numpy() for p in members] for members in lists])
        for group, members in zip(reference.groups, lists, strict=True):
            for p, new, m, v in zip(members, group['params'], group['m'], group['v'], strict=True):
                in_memory(p.data).copy_(torch.from_numpy(new))
                in_memory(self.state[p]['exp_avg']).copy_(torch.from_numpy(m))
                in_memory(self.state[p]['exp_avg_sq']).copy_(torch.from_numpy(v))
                p.grad.fill_(77.0)  # Apex leaves the update there


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


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'max_grad_norm': None},
        {'adam_w_mode': False},
        {'use_nvlamb': True},
        {'bias_correction': False, 'grad_averaging': False, 'betas': (0.8, 0.9), 'eps': 1e-3},
    ],
)
def test_delegated_steps_equal_the_reference(apex, options):
    """With an empty tensor at the end of every group and a gradient that comes late."""
    groups = make_groups()
    reference = ReferenceLAMB(as_arrays(groups), **options)
    optimizer = LAMB(groups, backend='apex', **options)
    assert optimizer.running_backend == 'apex'
    for step in range(10):
        set_gradients(groups, step)
        if step < 3:
            groups[0]['params'][1].grad = None
        if step < 2:
            for p in groups[1]['params']:
                p.grad = None
        for group in optimizer.param_groups + reference.groups:
            group['lr'] = 1e-3 * (step + 1)
        reference.step(gradients(groups))
        optimizer.step()
    assert [group['step'] for group in optimizer.param_groups] == [10, 10]
    assert_close(groups, reference)


def test_other_memory_layouts_of_gradients_and_moments_are_put_right(apex):
    """A convolution in channels_last; its first gradient is not, and a loaded moment is not."""
    shape = (4, 3, 5, 5)
    groups = make_groups(shapes=[shape, (6, 2, 1, 1)], options=({},))
    conv = groups[0]['params'][0]
    conv.data = conv.data.to(memory_format=torch.channels_last)
    reference = ReferenceLAMB(as_arrays(groups))
    optimizer = LAMB(groups, backend='apex')
    for step in range(4):
        reference.step(set_gradients(groups, step))
        if step == 2:
            moments = optimizer.state[conv]
            moments['exp_avg'] = moments['exp_avg'].contiguous()
        optimizer.step()
    assert_close(groups, reference)


def test_gradients_are_none_after_a_step_for_apex_writes_into_them(apex):
    groups = make_groups()
    optimizer = LAMB(groups, backend='apex')
    set_gradients(groups, 0)
    optimizer.step()
    assert all(p.grad is None for p in parameters(groups) if p.numel())
    optimizer.zero_grad(set_to_none=False)


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


def test_a_checkpoint_moves_between_the_backends(apex):
    groups = make_groups()
    reference = ReferenceLAMB(as_arrays(groups))
    optimizer = LAMB(groups, backend='apex')
    for step, backend in enumerate(['apex', 'torch', 'apex', 'torch']):
        checkpoint = copy.deepcopy(optimizer.state_dict())
        optimizer = LAMB([{'params': group['params']} for group in groups], backend=backend)
        optimizer.load_state_dict(checkpoint)
        assert optimizer.running_backend == backend
        reference.step(set_gradients(groups, step))
        optimizer.step()
    assert_close(groups, reference)


def test_deepcopy_and_pickle_run_in_lockstep_without_a_word(apex, log):
    groups = make_groups()
    optimizer = LAMB(groups, backend='auto')
    set_gradients(groups, 0)
    optimizer.step()
    for clone in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert clone.running_backend == 'apex'
        lockstep(copy.deepcopy(optimizer), clone, 3)
    assert len(log) == 1


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
    groups = make_groups()
    optimizer = LAMB(groups)
    assert log == ["LAMB runs on NVIDIA's Apex: it is installed and fits every parameter group."]
    reference = ReferenceLAMB(as_arrays(groups))
    reference.step(set_gradients(groups, 0))
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.add_param_group(one()[0])
    assert (optimizer.running_backend, len(log)) == ('apex', 1)
    optimizer.add_param_group(one(trust_clip=(0.1, 2.0))[0])
    assert optimizer.running_backend == 'torch'
    assert log[1:] == ['LAMB runs on PyTorch: Apex has no trust_clip, and group 3 sets it.']
    reference.step(set_gradients(groups, 1))
    optimizer.step()
    assert_close(groups, reference)


def test_a_group_that_apex_cannot_take_is_not_added_to_an_apex_optimizer(apex):
    groups = make_groups()
    reference = ReferenceLAMB(as_arrays(groups))
    optimizer = LAMB(groups, backend='apex')
    with pytest.raises(SettingError, match='Apex has no trust_clip, and group 2 sets it'):
        optimizer.add_param_group(one(trust_clip=(0.1, 2.0))[0])
    assert (len(optimizer.param_groups), optimizer.running_backend) == (2, 'apex')
    reference.step(set_gradients(groups, 0))
    optimizer.step()
    assert_close(groups, reference)
    assert groups[0]['params'][0].grad is None  # still Apex


def test_what_is_unpickled_elsewhere_finds_its_backend_there(apex, monkeypatch, log):
    auto, explicit = pickle.dumps(LAMB(one())), pickle.dumps(LAMB(one(), backend='apex'))
    del log[:]
    install(monkeypatch, apex=False)
    assert pickle.loads(auto).running_backend == 'torch'
    assert len(log) == 1
    with pytest.raises(SettingError, match='not installed'):
        pickle.loads(explicit)


def test_max_grad_norm_none_reaches_apex_as_infinity(apex):
    groups = make_groups()
    optimizer = LAMB(groups, backend='apex', max_grad_norm=None)
    set_gradients(groups, 0)
    optimizer.step()
    assert optimizer._apex._inner.defaults['max_grad_norm'] == math.inf


def test_the_choice_is_logged_without_any_logger_set_up():
    assert LAMB(one(), backend='torch').running_backend == 'torch'
