"""The CUDA paths on fake tensors, which have no values: reads by the host, and mixed devices.

Values are tested on the CPU, and on a GPU in tests/gpu.
"""

import pytest
import torch
import torch.distributed as dist
from helpers.fake_cuda import FakeCuda, MixedDevices
from helpers.optimizers.apex_emulation import AmpC
from helpers.optimizers.nvidias_apex import APEX_SOURCE, importable
from mmengine.optim import OptimWrapper
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)
from torch.testing._internal.distributed.fake_pg import FakeStore

from mmdet_largebatch.global_batch.micro_batch_gradients import NOT_FINITE, MicroBatchGradients
from mmdet_largebatch.hooks import DivergenceHook, NoiseScaleHook, TrustRatioHook
from mmdet_largebatch.optimizers import LAMB, LARS, _cpu_kernels, apex_lamb, lamb

GPU = 'cuda:0'
# 0-d, a bias, an empty one, a convolution, a matrix.
SHAPES = [(), (7,), (0, 3), (4, 3, 3, 3), (33, 65)]
COPY, ITEM = 'aten._to_copy.default', 'aten._local_scalar_dense.default'


def make(dtype=torch.float32, dense=True):
    """Parameters with gradients on a GPU, in a group with weight decay and one without."""
    params = []
    for shape in SHAPES * 2:
        x = torch.randn(shape, device=GPU, dtype=dtype)
        if not dense and x.dim() == 2:
            x = torch.randn(*shape, 2, device=GPU, dtype=dtype).select(-1, 0)
        p = torch.nn.Parameter(x)
        p.grad = torch.randn(shape, device=GPU, dtype=dtype)
        params.append(p)
    half = len(SHAPES)
    excluded = dict(params=params[half:], weight_decay=0.0, lars_exclude=True)
    return params, [dict(params=params[:half], weight_decay=1e-4), excluded]


def give_gradients(params):
    for p in params:
        p.grad = torch.randn(p.shape, device=GPU, dtype=p.dtype)


TORCH = dict(backend='torch')
VARIANTS = [
    (LAMB, TORCH),
    (LAMB, TORCH | dict(max_grad_norm=None)),
    (LAMB, TORCH | dict(use_nvlamb=True, adam_w_mode=False, trust_clip=(0.1, 2.0))),
    (LAMB, TORCH | dict(grad_averaging=False, bias_correction=False)),
    (LARS, {}),
    (LARS, dict(nesterov=True)),
    (LARS, dict(momentum=0.0)),
    (LARS, dict(dampening=0.5)),
]


@pytest.mark.parametrize('tensors', [{}, {'dtype': torch.float16}, {'dense': False}])
@pytest.mark.parametrize(('kind', 'options'), VARIANTS)
def test_a_step_reads_nothing_back(kind, options, tensors):
    with FakeCuda() as gpu:
        params, groups = make(**tensors)
        optimizer = kind(groups, lr=0.01, **options)
        seen = []
        for observer in (None, lambda *numbers: seen.append(numbers), None):
            optimizer.observer = observer
            give_gradients(params)
            optimizer.step()
    assert gpu.reads == [] and gpu.operators > 0
    # The trust ratios of the group that is scaled, without the empty tensor.
    scaled = len(SHAPES) - 1
    assert len(seen) == scaled * (2 if options.get('use_nvlamb') else 1)
    found = [x for numbers in seen for x in numbers]
    found += [x for state in optimizer.state.values() for x in state.values()]
    assert {str(x.device) for x in found} == {GPU}


@pytest.mark.parametrize('kind', [LAMB, LARS])
def test_a_step_under_pytorchs_own_mode(kind):
    """Without the guard that FakeCuda adds to a CPU build, in which ``~`` of a mask fails there."""
    with FakeTensorMode():
        p = torch.nn.Parameter(torch.ones((4, 3), device=GPU))
        p.grad = torch.ones_like(p)
        optimizer = kind([p], lr=0.01, weight_decay=1e-4)
        for _ in range(2):
            optimizer.step()
    assert {str(x.device) for x in optimizer.state[p].values()} == {GPU}


class StandIn(torch.optim.Optimizer):
    """The interface of NVIDIA's FusedLAMB: it leaves the update in the gradients."""

    def __init__(self, params, adam_w_mode=True, use_nvlamb=False):
        super().__init__(params, dict(max_grad_norm=1.0))

    def step(self):
        for group in self.param_groups:
            torch._foreach_mul_([p.grad for p in group['params']], 2.0)


@pytest.fixture(params=['a stand-in', "NVIDIA's class"])
def fused_lamb(request, monkeypatch):
    """The class below LAMB: with APEX_SOURCE, NVIDIA's Python code on an emulated extension."""
    if request.param == 'a stand-in':
        monkeypatch.setattr(apex_lamb, 'find_fused_lamb', lambda: StandIn)
        yield
    elif not APEX_SOURCE:
        pytest.skip('APEX_SOURCE is not set: see test_nvidias_class.py')
    else:
        with importable(AmpC('cuda')):
            yield


def test_the_wrapper_of_apex_reads_nothing_back(fused_lamb):
    with FakeCuda() as gpu:
        params, groups = make()
        optimizer = LAMB(groups, backend='apex')
        seen = []
        for observer in (None, lambda *numbers: seen.append(numbers)):
            optimizer.observer = observer
            give_gradients(params)
            # Another memory format than its parameter's, which is copied.
            params[3].grad = params[3].grad.to(memory_format=torch.channels_last)
            optimizer.step()
    assert (gpu.reads, len(seen)) == ([], len(SHAPES) - 1)
    assert all(p.grad is None for p in params if p.numel())
    assert [group['step'] for group in optimizer.param_groups] == [2, 2]


def test_parameters_on_a_cpu_too_need_a_read():
    """As the docstring of LAMB says: the CPU's kernels take the divisor of the clip as a number."""
    with FakeCuda(answer=1.0) as gpu:
        _, groups = make()
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        LAMB([*groups, dict(params=[p])], lr=0.5, weight_decay=0.0, backend='torch').step()
    # The question whether it is 1, which is answered with yes.
    assert gpu.reads == [ITEM]
    # Adam's first step is the LR, whatever the gradient.
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.5), rtol=0, atol=1e-5)


def test_clipping_by_the_wrapper_is_one_read_of_mmengines():
    """MMEngine logs the norm as a float; LAMB's own clip, in the tests above, reads nothing."""
    with FakeCuda(answer=1.0) as gpu:
        _, groups = make()
        wrapper = OptimWrapper(LAMB(groups, backend='torch'), clip_grad=dict(max_norm=1.0))
        wrapper.step()
    assert gpu.reads == [ITEM]


class Runner:
    """A runner, its loop and its sampler, with what the hooks read."""

    iter = epoch = rank = 0
    batch_size, micro_batches, global_batch_size = 2, 4, 8

    def __init__(self, model, optimizer):
        self.model, self.optim_wrapper = model, OptimWrapper(optimizer)
        self.train_loop = self.visualizer = self.sampler = self.logger = self
        self.bad_gradients, self.written = [], []

    def add_scalars(self, scalars, step):
        self.written.append((step, scalars))

    def is_full(self, update):
        return True

    def info(self, line):
        pass


def named(params):
    model = torch.nn.Module()
    model.backbone = torch.nn.ParameterList(params)
    return model


@pytest.mark.parametrize('kind', [LAMB, LARS])
def test_the_trust_ratio_hook_copies_once_at_its_interval(kind):
    with FakeCuda(answer=2.0) as gpu:
        params, groups = make()
        runner = Runner(named(params), kind(groups, lr=0.01))
        hook = TrustRatioHook(interval=3)
        hook.before_train(runner)
        for runner.iter in range(6):
            give_gradients(params)
            hook.before_train_iter(runner, runner.iter)
            runner.optim_wrapper.step()
            hook.after_train_iter(runner, runner.iter)
    assert gpu.reads == [COPY, COPY]
    assert [step for step, _ in runner.written] == [3, 6]
    assert {value for _, scalars in runner.written for value in scalars.values()} == {2.0}


def test_the_noise_scale_hook_copies_once_a_measurement():
    """Every second update, with gradients left over from the one before."""
    with FakeCuda(answer=0.0) as gpu:
        params, groups = make()
        runner = Runner(named(params), LAMB(groups, backend='torch'))
        hook = NoiseScaleHook(interval=2)
        hook.before_train(runner)
        for runner.iter in range(4):
            hook.before_train_iter(runner, runner.iter)
            gradients = {name: p.grad for name, p in runner.model.named_parameters()}
            for index in range(runner.micro_batches):
                hook.after_micro_batch(runner, index, gradients)
            hook.before_update(runner, {})
            hook.after_train_iter(runner, runner.iter)
    assert gpu.reads == [COPY, COPY]
    assert [step for step, _ in runner.written] == [2, 4]


def test_the_divergence_hook_copies_once_an_update():
    with FakeCuda(answer=0.5) as gpu:
        params, groups = make()
        runner = Runner(named(params), LAMB(groups, backend='torch'))
        losses = {name: torch.randn((), device=GPU) for name in ('loss', 'loss_cls')}
        DivergenceHook().before_update(runner, losses)
    assert gpu.reads == [COPY]


@pytest.fixture(params=[1, 2])
def ranks(request):
    """Two ranks are a group whose collectives do nothing."""
    if request.param > 1:
        dist.init_process_group('fake', store=FakeStore(), rank=0, world_size=request.param)
    yield request.param
    if request.param > 1:
        dist.destroy_process_group()


@pytest.mark.parametrize(('answer', 'why'), [(0.0, set()), (1.0, {NOT_FINITE})])
@pytest.mark.parametrize('exact', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_sums_are_checked_once_an_update(exact, dtype, answer, why, ranks):
    """Whose gradients are in range is noted on the GPU, and read as the update ends."""
    with FakeCuda(answer) as gpu:
        params, _ = make(dtype)
        sums = MicroBatchGradients(named(params), ranks, micro_batches=6, exact=exact)
        for _ in range(2):
            sums.begin()
            for _ in range(3):
                give_gradients(params)
                sums.add(1024.0, listen=lambda gradients: None)
            assert gpu.reads == []
            assert set(sums.finish().values()) == why
            assert gpu.reads == [COPY]
            gpu.reads.clear()


# One test each for what must not pass.


def test_a_read_by_the_host_raises(monkeypatch):
    """The norm for the clip as a number, as on a CPU."""
    monkeypatch.setattr(lamb, 'global_norm', lambda grads: torch.stack(grads[:1]).norm().item())
    with FakeCuda(), pytest.raises(DataDependentOutputException):
        _, groups = make()
        LAMB(groups, backend='torch').step()


@pytest.mark.parametrize('name', ['__bool__', '__float__', '__int__', 'item', 'tolist', 'cpu'])
def test_each_way_to_read_raises(name):
    with FakeCuda(), pytest.raises(DataDependentOutputException):
        getattr(torch.ones((), device=GPU), name)()


def test_mixed_devices_raise():
    hp = lamb.LambScalars(LAMB([torch.nn.Parameter(torch.ones(1))]).param_groups[0] | dict(step=1))
    with FakeCuda():
        p = make()[0][0].requires_grad_(False)
        moments = torch.zeros_like(p), torch.zeros_like(p)
        on_host = torch.zeros(p.shape), torch.zeros(p.shape)
        update = _cpu_kernels.LambKernels().update
        update([(p, *moments)], hp, torch.ones((), device=GPU), None)
        with pytest.raises(MixedDevices):
            update([(p, *on_host)], hp, torch.ones((), device=GPU), None)
        with pytest.raises(FakeTensorDeviceMismatchError):
            p + torch.ones(3)
