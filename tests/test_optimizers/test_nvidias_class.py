"""LAMB on NVIDIA's own ``apex.optimizers.FusedLAMB``, its CUDA extension emulated on the CPU.

NVIDIA's Python code runs unchanged, out of a clone that the variable APEX_SOURCE names; the kernels
below it are those of apex_emulation.py. Without the variable these tests are skipped. From the
root of this repository:

    git clone https://github.com/NVIDIA/apex ../apex
    APEX_SOURCE=../apex python -m pytest tests/test_optimizers -k nvidias

Nothing of the clone is built, and neither CUDA nor a GPU is needed. Written at its commit 6424da3b.
What the class gets wrong, and that it does not reach our users, is in test_nvidias_traps.py and
test_nvidias_memory.py.
"""

import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.optimizers import groups as helpers
from helpers.optimizers.apex_emulation import AmpC
from helpers.optimizers.groups import (
    SHAPES,
    as_arrays,
    assert_close,
    gradients,
    make_groups,
    parameters,
)
from helpers.optimizers.nvidias_apex import APEX_SOURCE, importable, loaded, require_source
from helpers.optimizers.reference import ReferenceLAMB
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_largebatch.optimizers import LAMB, apex_lamb
from mmdet_largebatch.optimizers.apex_lamb import find_fused_lamb

require_source()

OPTIONS = {
    'defaults': {},
    'no clip': {'max_grad_norm': None},
    'decay in the gradient': {'adam_w_mode': False},
    'ratio for all': {'use_nvlamb': True},
    'no bias correction': {'bias_correction': False},
    'no averaging': {'grad_averaging': False},
    'other numbers': {'betas': (0.8, 0.95), 'eps': 1e-3, 'max_grad_norm': 0.3},
}
# 65 tensors, the last of them empty: a group takes two launches of stage 1 and of stage 2.
MANY = [*[(3, 2)] * 60, *SHAPES]


def set_lr(groups, step):
    """Four updates of warmup, then a decay at 12 and at 18."""
    for group in groups:
        group['lr'] = 0.01 * min(1, (step + 1) / 4) * 0.1 ** ((step >= 12) + (step >= 18))


def set_gradients(groups, step):
    """Every third update is below the clip; a tensor starts late, and a group misses one update."""
    helpers.set_gradients(groups, step, scale=1e-3 if step % 3 == 0 else 0.3)
    late = groups[0]['params'][1:2] if step < 3 else []
    for p in late + (groups[-1]['params'] if step == 7 else []):
        p.grad = None
    return gradients(groups)


def assert_moments(optimizer, reference):
    for group, expected in zip(optimizer.param_groups, reference.groups, strict=True):
        for p, m, v in zip(group['params'], expected['m'], expected['v'], strict=True):
            if p.numel():
                moments, atol = optimizer.state[p], 1e-6 * np.abs(m).max()
                np.testing.assert_allclose(moments['exp_avg'].numpy(), m, rtol=1e-5, atol=atol)
                np.testing.assert_allclose(moments['exp_avg_sq'].numpy(), v, rtol=1e-5)


def test_the_class_is_nvidias_and_leaves_no_trace():
    before = dict(sys.modules), list(sys.path), sys.dont_write_bytecode
    with importable(AmpC()):
        assert APEX_SOURCE in Path(inspect.getfile(find_fused_lamb())).parents
        assert 'apex.multi_tensor_apply' in loaded()
    assert {name: sys.modules[name] for name in loaded()} == {
        name: module for name, module in before[0].items() if name.partition('.')[0] == 'apex'
    }
    assert sys.modules.get('amp_C') is before[0].get('amp_C')
    assert (sys.path, sys.dont_write_bytecode) == before[1:]


@pytest.mark.parametrize(
    ('shapes', 'chunk_size', 'steps', 'options'),
    [*((MANY, 65_536, 24, options) for options in OPTIONS.values()), ([(1700,), *MANY], 5, 4, {})],
    ids=[*OPTIONS, 'launches end within tensors'],
)
def test_numbers_of_the_reference_and_of_the_torch_backend(
    amp_C, fused_lamb, monkeypatch, shapes, chunk_size, steps, options
):
    from apex.multi_tensor_apply import multi_tensor_applier

    monkeypatch.setattr(multi_tensor_applier, 'chunk_size', chunk_size)
    groups, twins = make_groups(shapes=shapes), make_groups(shapes=shapes)
    for one in (groups, twins):
        one[0]['params'][0].data.zero_()  # a norm of 0, where the ratio is 1
    reference = ReferenceLAMB(as_arrays(groups), **options)
    optimizer = LAMB(groups, backend='apex', **options)
    twin = LAMB(twins, backend='torch', **options)
    for step in range(steps):
        for one in (optimizer.param_groups, twin.param_groups, reference.groups):
            set_lr(one, step)
        set_gradients(twins, step)
        reference.step(set_gradients(groups, step))
        twin.step()
        del amp_C.launches[:]
        optimizer.step()
        assert amp_C.launches.count('stage 1') >= 2
    # The tolerances that Apex can be held to, and those of its state; then the project's own.
    for p, q in zip(parameters(groups), parameters(twins), strict=True):
        torch.testing.assert_close(p, q, rtol=1.3e-6, atol=1e-5)
        for name, value in twin.state.get(q, {}).items():
            atol = 1e-6 * value.abs().max().item()
            torch.testing.assert_close(optimizer.state[p][name], value, rtol=1e-5, atol=atol)
    assert_close(groups, reference)
    assert_moments(optimizer, reference)


CHANGES = {
    'backends': ['apex', 'torch', 'apex', 'torch'],
    'NVIDIA and torch': ['bare', 'torch', 'bare', 'torch'],
    'NVIDIA and apex': ['bare', 'apex', 'bare', 'apex'],
    'all': ['torch', 'bare', 'apex', 'torch', 'bare'],
}


@pytest.mark.parametrize('options', [{}, {'adam_w_mode': False, 'use_nvlamb': True}])
@pytest.mark.parametrize('kinds', CHANGES.values(), ids=CHANGES)
def test_checkpoints_go_on_from_one_to_another(fused_lamb, tmp_path, kinds, options):
    """Five updates each; 'bare' is NVIDIA's class by itself, with its own ``state_dict``."""
    groups = make_groups(shapes=SHAPES[:-1])
    reference = ReferenceLAMB(as_arrays(groups), **options)
    optimizer = None
    for i, kind in enumerate(kinds):
        own = [dict(group) for group in groups]
        if kind == 'bare':
            heir = fused_lamb(own, **options)
        else:
            heir = LAMB(own, backend=kind, **options)
        if optimizer is not None:
            torch.save(optimizer.state_dict(), tmp_path / 'checkpoint.pth')
            heir.load_state_dict(torch.load(tmp_path / 'checkpoint.pth'))
        optimizer = heir
        for step in range(5 * i, 5 * i + 5):
            set_lr(optimizer.param_groups, step)
            set_lr(reference.groups, step)
            reference.step(set_gradients(groups, step))
            optimizer.step()
    assert {group['step'] for group in optimizer.param_groups} == {5 * len(kinds)}
    assert_close(groups, reference)
    assert_moments(optimizer, reference)


def test_trust_ratios_are_those_that_the_torch_backend_tells(fused_lamb):
    """They are worked out from the update which the kernels leave in the gradient."""
    told = {}
    for backend in ('apex', 'torch'):
        groups = make_groups(shapes=SHAPES)
        optimizer = LAMB(groups, backend=backend)
        index = {p: i for i, p in enumerate(parameters(groups))}
        numbers = told[backend] = {}
        optimizer.observer = lambda p, *of_p, seen=numbers, at=index: seen.update(
            {at[p]: list(map(float, of_p))}
        )
        for step in range(3):
            helpers.set_gradients(groups, step)
            optimizer.step()
    assert list(told['apex']) == [0, 1, 2, 3]  # those with decay that are not empty
    for i, numbers in told['torch'].items():
        np.testing.assert_allclose(told['apex'][i], numbers, rtol=2e-6)


class BufferFills(TorchDispatchMode):
    """Counts what PyTorch launches on a GPU to make buffers of zeros."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.count += function is torch.ops.aten.zeros.default and result.numel() > 0
        return result


@pytest.fixture(scope='module')
def mask_rcnn():
    """mmdet's Mask R-CNN R50 without memory: 201 parameters, 168 of them trainable."""
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    cfg.model.backbone.init_cfg = None
    with torch.device('meta'):
        return MODELS.build(cfg.model)


# The norm of all gradients: a buffer, 3 launches (785 blocks at 320 a launch; 4 where the weights
# come first, since 110 tensors fill one), the sum of the blocks' sums. The norm of that and of half
# precision's: three buffers, 1 launch, a sum. 10 or 11 together.
# A group: two buffers and a sum for the norms of its parameters, and for those of its updates; and
#   all in one    3 + 5 + 3 + 4 launches of norms, stage 1, norms, stage 2
#   63 weights    3 + 3 + 3 + 3
#   105 others    1 + 3 + 1 + 2
#   a tensor      1 + 1 + 1 + 1
@pytest.mark.parametrize(
    ('constructor', 'paramwise', 'launches'),
    [
        ('MergedGroupsConstructor', None, 10 + 6 + 15),
        ('MergedGroupsConstructor', {'bias_decay_mult': 0, 'norm_decay_mult': 0}, 11 + 12 + 12 + 7),
        ('DefaultOptimWrapperConstructor', {'bias_decay_mult': 0}, 10 + 168 * (6 + 4)),
    ],
    ids=['1 group', '2 groups', '168 groups'],
)
@pytest.mark.parametrize('kind', ['bare', 'apex'])
def test_launches_of_an_update_of_mask_rcnn(
    mask_rcnn, monkeypatch, kind, constructor, paramwise, launches
):
    monkeypatch.setattr(apex_lamb, 'is_on_gpu', lambda p: True)
    amp_C = AmpC('meta')
    cfg = dict(type='OptimWrapper', optimizer=dict(type='LAMB', backend='apex', weight_decay=1e-4))
    cfg |= dict(constructor=constructor, paramwise_cfg=paramwise)
    with importable(amp_C):
        optimizer = build_optim_wrapper(mask_rcnn, ConfigDict(cfg)).optimizer
        if kind == 'bare':
            optimizer = find_fused_lamb()(optimizer.param_groups)
        trainable = [p for p in mask_rcnn.parameters() if p.requires_grad]
        assert (len(trainable), sum(p.numel() for p in trainable)) == (168, 44_170_992)
        for _ in range(2):  # the first makes the moments too
            for p in trainable:
                p.grad = torch.empty_like(p)
            del amp_C.launches[:]
            with BufferFills() as fills:
                optimizer.step()
    assert len(amp_C.launches) + fills.count == launches
