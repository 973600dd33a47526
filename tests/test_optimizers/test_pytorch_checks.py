"""The checks that PyTorch's test/test_optim.py makes of every optimizer, made of LAMB and LARS.

They run over all inputs of pytorch_infos.py. In brackets stands PyTorch's test of the same intent.
What PyTorch has beyond these is proved in the files beside this one: closures with gradients,
gradients left as they are, missing gradients, a ``step`` that is no int, sparse gradients and
complex parameters refused, memory, fused and plain paths equal.
"""

import io
import itertools
from copy import deepcopy

import pytest
import torch
from helpers.optimizers.groups import lockstep, parameters, set_gradients
from helpers.optimizers.pytorch_infos import (
    OF_ALL_GROUPS,
    every_error,
    every_input,
    losses,
    numbers,
    set_default_dtype,
    stepped,
    weight_and_bias,
)
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.testing import assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
CASTS = [pair for pair in itertools.permutations(DTYPES, 2) if torch.float32 in pair]
NAMED = list(itertools.product(['plain', 'named'], repeat=2))
EXACT = dict(rtol=0, atol=0)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize('layout', ['contiguous', 'strided', 'groups'])
@every_input
def test_the_loss_falls_under_every_scheduler(info, kwargs, layout):
    """[forloop_goes_right_direction, param_group_with_lrscheduler_goes_right_direction]."""
    for constructors in ((), *info.scheduler_inputs):
        weight, bias = weight_and_bias(contiguous=layout != 'strided')
        groups = [{'params': weight}, {'params': bias, 'lr': 0.01}]
        optimizer = info.optim_cls(groups if layout == 'groups' else [weight, bias], **kwargs)
        schedulers = [constructor(optimizer) for constructor in constructors]
        first, *_, last = losses(optimizer, weight, bias, schedulers)
        assert last < first


@pytest.mark.parametrize('gradient', ['missing', 'zero'])
@every_input
def test_nothing_moves_without_a_gradient_but_by_weight_decay(info, kwargs, gradient):
    """[step_is_noop_when_params_have_no_grad, step_is_noop_for_zero_grads]."""
    params = weight_and_bias()
    before = deepcopy(params)
    optimizer = info.optim_cls(params, **kwargs)
    for p in params:
        p.grad = torch.zeros_like(p) if gradient == 'zero' else None
    optimizer.step()
    decays = gradient == 'zero' and optimizer.defaults['weight_decay'] > 0
    for p, old in zip(params, before, strict=True):
        assert p.norm() < old.norm() if decays else torch.equal(p, old)


@every_input
def test_every_parameter_steps_as_in_an_optimizer_of_its_own(info, kwargs):
    """[param_groups_lr, param_groups_weight_decay, mixed_device_dtype]; one group comes later."""
    common = OF_ALL_GROUPS[info.optim_cls]
    options = {name: value for name, value in kwargs.items() if name not in common}
    if info.name == 'LAMB':  # Clipping is what joins the parameters.
        common, options['max_grad_norm'] = common | {'max_grad_norm': None}, None
    late = {'params': [p for dtype in DTYPES for p in weight_and_bias(dtype)], **options}
    moving = {'params': weight_and_bias(), **options, 'weight_decay': 0.0, 'lr': 0.25}
    still = {'params': weight_and_bias(), 'lr': 1e-28}
    before = deepcopy([moving['params'], still['params']])
    alone = {
        p: info.optim_cls([{**group, 'params': deepcopy(p)}], lr=0.1, **common)
        for group in (moving, still, late)
        for p in group['params']
    }
    joint = info.optim_cls([moving, still], lr=0.1, **common)
    for step in range(4):
        if step == 2:
            joint.add_param_group(late)
        set_gradients(joint.param_groups, step)
        joint.step()
        for p in parameters(joint.param_groups):
            (own,) = alone[p].param_groups[0]['params']
            own.grad = p.grad
            alone[p].step()
            assert torch.equal(p, own)
    assert not any(map(torch.equal, moving['params'], before[0]))
    assert all(map(torch.equal, still['params'], before[1]))


@pytest.mark.parametrize('named', NAMED, ids='-'.join)
@every_input
def test_a_checkpoint_is_what_was_saved_and_continues_alike(info, kwargs, named):
    """[state_dict_deterministic, save_load_equality_with_weights_only, can_load_older_state_dict,
    can_load_from_to_named_state_dict].
    """
    params = weight_and_bias()

    def given(params, how):
        return params if how == 'plain' else list(zip(('weight', 'bias'), params, strict=True))

    optimizer = stepped(info, kwargs, given(params, named[0]))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    assert_close(loaded['state'], optimizer.state_dict()['state'], **EXACT)
    assert loaded['param_groups'] == optimizer.state_dict()['param_groups']

    for flag in info.not_og_supported_flags:
        del loaded['param_groups'][0][flag]
    untouched = deepcopy(loaded)
    copies = deepcopy(params)
    fresh = info.optim_cls(given(copies, named[1]), **kwargs)
    fresh.load_state_dict(loaded)
    assert_close(loaded['state'], untouched['state'], **EXACT)
    assert loaded['param_groups'] == untouched['param_groups']

    lockstep(optimizer, fresh, 3, seed=10)
    assert_close(fresh.state_dict()['state'], optimizer.state_dict()['state'], **EXACT)
    fresh.param_groups *= 2
    (ours,), theirs = (o.state_dict()['param_groups'] for o in (optimizer, fresh))
    names = {'param_names': ['weight', 'bias']} if 'named' in named else {}
    assert theirs == [ours | names] * 2


@pytest.mark.parametrize(('source', 'target'), CASTS, ids=str)
@every_input
def test_a_checkpoint_moves_to_parameters_of_another_dtype(info, kwargs, source, target):
    """[state_dict_with_cuda_params], of dtypes instead of devices."""
    optimizer = stepped(info, kwargs, weight_and_bias(source))
    fresh = info.optim_cls(weight_and_bias(target), **kwargs)
    fresh.load_state_dict(optimizer.state_dict())
    kept_in = torch.float64 if target == torch.float64 else torch.float32
    for saved, loaded in zip(numbers(optimizer)[1], numbers(fresh)[1], strict=True):
        assert_close(loaded, {name: x.to(kept_in) for name, x in saved.items()}, **EXACT)
    set_gradients(fresh.param_groups, 10)
    fresh.step()
    assert all(p.isfinite().all() and p.dtype == target for p in numbers(fresh)[0])


@every_error
def test_errors(info, error):
    """[errors, tensor_lr]."""
    bad = error.optimizer_error_input
    expected = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
    with expected(error.error_type, match=error.error_regex):
        info.optim_cls(bad.params, **bad.kwargs)


@every_input
def test_step_hooks_of_one_and_of_all_optimizers_run_in_order(info, kwargs):
    """[step_pre_hook, step_post_hook, step_all_hooks]."""
    heard = []

    def note(word):
        return lambda optimizer, args, kwargs: heard.append((word, optimizer))

    ours, sgd = info.optim_cls(weight_and_bias(), **kwargs), torch.optim.SGD(weight_and_bias())
    handles = [
        register_optimizer_step_post_hook(note('all, after')),
        ours.register_step_post_hook(note('after')),
        ours.register_step_pre_hook(note('before')),
        register_optimizer_step_pre_hook(note('all, before')),
    ]
    try:
        ours.step()
        sgd.step()
    finally:
        for handle in handles:
            handle.remove()
    ours.step()
    words = ['all, before', 'before', 'after', 'all, after']
    assert heard == [(word, ours) for word in words] + [(word, sgd) for word in words[::3]]


@every_input
def test_state_dict_hooks_run_in_order(info, kwargs):
    """[state_dict_pre_hook, state_dict_post_hook, state_dict_pre_post_hook]."""
    optimizer = info.optim_cls(weight_and_bias(), **kwargs)
    optimizer.register_state_dict_pre_hook(lambda o: o.state.update(before=1))
    optimizer.register_state_dict_post_hook(lambda _, saved: {'after': saved['state']})
    assert optimizer.state_dict() == {'after': {'before': 1}}


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@every_input
def test_load_hooks_run_in_order_and_have_the_last_word(info, kwargs, dtype):
    """[load_state_dict_pre_hook_and_prepend, load_state_dict_post_hook, ..._pre_post_hook]."""
    optimizer = stepped(info, kwargs, weight_and_bias(dtype))
    saved = optimizer.state_dict()
    fresh = info.optim_cls(weight_and_bias(dtype), **kwargs)

    def with_lr(_, loaded):
        return loaded | {'param_groups': [loaded['param_groups'][0] | {'lr': 0.25}]}

    def halve_lr(_, loaded):
        loaded['param_groups'][0]['lr'] *= 0.5

    def look_and_clear(fresh):
        assert fresh.param_groups[0]['lr'] == 0.125
        assert_close(numbers(fresh)[1], numbers(optimizer)[1], **EXACT)
        fresh.state.clear()

    fresh.register_load_state_dict_pre_hook(halve_lr)
    fresh.register_load_state_dict_pre_hook(with_lr, prepend=True)
    fresh.register_load_state_dict_post_hook(look_and_clear)
    fresh.load_state_dict(saved)
    assert not fresh.state


@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@every_input
def test_state_is_kept_where_needed_and_copied_with_all_attributes(info, kwargs, dtype):
    """[non_empty_state, deepcopy_copies_all_public_attrs]."""
    optimizer = stepped(info, kwargs, weight_and_bias(dtype), steps=1)
    assert len(optimizer.state) == (0 if kwargs.get('momentum') == 0 else 2)
    kept_in = torch.float64 if dtype == torch.float64 else torch.float32
    for p, state in optimizer.state.items():
        assert {(x.dtype, x.shape) for x in state.values()} == {(kept_in, p.shape)}
    copy = deepcopy(optimizer)
    ours, theirs = ({k for k in vars(o) if not k.startswith('_')} for o in (optimizer, copy))
    assert ours == theirs
    assert_close(numbers(copy), numbers(optimizer), **EXACT)


@every_input
def test_it_prints_its_options_and_zeroes_gradients(info, kwargs):
    """[optimizer_can_be_printed]."""
    params = weight_and_bias()
    optimizer = stepped(info, kwargs, params, steps=1)
    group, text = optimizer.param_groups[0], repr(optimizer)
    assert all(f'{name}: {group[name]}' in text for name in group.keys() - {'params'})
    grads = [p.grad for p in params]
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is g and not g.any() for p, g in zip(params, grads, strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)


@pytest.mark.parametrize('default', [torch.float64, torch.float16], ids=str)
@every_input
def test_the_default_dtype_changes_nothing(info, kwargs, default):
    """[set_default_dtype_works_with_foreach]."""
    params = [p for dtype in DTYPES for p in weight_and_bias(dtype)]
    usual, other = (info.optim_cls(deepcopy(params), **kwargs) for _ in range(2))
    for step in range(3):
        set_gradients(usual.param_groups, step)
        usual.step()
        for p, q in zip(*(parameters(o.param_groups) for o in (usual, other)), strict=True):
            q.grad = p.grad
        with set_default_dtype(default):
            other.step()
    assert_close(numbers(other), numbers(usual), **EXACT)
