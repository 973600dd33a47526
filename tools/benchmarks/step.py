"""One step of an optimizer: parameters and gradients, time, memory and kernels."""

import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.benchmark import timer

LR, WEIGHT_DECAY = 1e-4, 1e-4
# Above 1, where LAMB clips.
GRAD_NORM = 10.0


# A parameter group without its tensors: their shapes, LR and weight decay.
Group = tuple[list[torch.Size], float, float]


def recipe_groups(cfg: Config) -> list[Group]:
    """Return the groups of a recipe's model, without frozen and empty parameters.

    Only the constructor and ``paramwise_cfg`` of ``optim_wrapper`` are used: LR and weight decay
    before their multipliers are the benchmark's.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    wrapper = {k: v for k, v in cfg.optim_wrapper.items() if k in ('constructor', 'paramwise_cfg')}
    wrapper['optimizer'] = dict(type=torch.optim.SGD, lr=LR, weight_decay=WEIGHT_DECAY)
    groups = []
    for group in build_optim_wrapper(MODELS.build(cfg.model), wrapper).optimizer.param_groups:
        shapes = [p.shape for p in group['params'] if p.requires_grad and p.numel()]
        groups.append((shapes, group['lr'], group['weight_decay']))
    return [group for group in groups if group[0]]


def of_one_element(group: Group) -> Group:
    """Return the group with one element in every tensor, and as many dimensions."""
    shapes, *options = group
    return [torch.Size([1] * len(shape)) for shape in shapes], *options


class Problem:
    """Weights, and gradients that all optimizers share."""

    def __init__(self, groups: list[Group], device: str) -> None:
        self.groups, self.device = groups, device
        rng = torch.Generator().manual_seed(0)
        self.weights, self._written = (
            [
                torch.randn(shape, generator=rng).mul_(scale).to(device)
                for shapes, *_ in groups
                for shape in shapes
            ]
            for scale in (0.05, 1.0)
        )
        norm = math.hypot(*(x.norm().item() for x in self._written))
        torch._foreach_mul_(self._written, GRAD_NORM / norm)
        self._gradients = [x.clone() for x in self._written]

    def write_gradients(self, params: list[torch.nn.Parameter]) -> None:
        """Restore the gradients, which some optimizers change, and give them to ``params``."""
        torch._foreach_copy_(self._gradients, self._written)
        for p, g in zip(params, self._gradients, strict=True):
            p.grad = g


class Contestant:
    """An optimizer on parameters of its own, after two steps."""

    def __init__(self, problem: Problem, kind: type[Optimizer], options: dict[str, Any]) -> None:
        params = [torch.nn.Parameter(x.clone()) for x in problem.weights]
        rest, groups = iter(params), []
        for shapes, lr, decay in problem.groups:
            # As in the recipes; other optimizers do not know lars_exclude.
            of_group = dict(params=[next(rest) for _ in shapes], lars_exclude=decay == 0)
            groups.append(of_group | dict(lr=lr, weight_decay=decay))
        self.write_gradients = lambda: problem.write_gradients(params)
        self.optimizer, self.peak_bytes = peak_memory(
            lambda: kind(groups, lr=LR, **options), self.write_gradients, problem.device
        )
        self._calls: list[Call] = []

    def time(self) -> float:
        """Return the seconds of a step."""
        return self._seconds(self.optimizer.step)

    @torch.no_grad()
    def time_kernels(self) -> float:
        """Return the seconds of a step's calls of PyTorch, without the Python code between them."""
        if not self._calls:
            self.write_gradients()
            self._calls = kernel_calls(self.optimizer.step)
        return self._seconds(lambda: [call(*args, **kw) for call, args, kw in self._calls])

    def _seconds(self, work: Callable[[], Any]) -> float:
        self.write_gradients()
        begin = timer()  # It waits for a GPU.
        work()
        return timer() - begin


# A function of PyTorch with its positional and its named arguments.
Call = tuple[Callable[..., Any], tuple, dict[str, Any]]


class _Kernels(TorchDispatchMode):
    """Note operators that compute; views do not."""

    any = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.any |= func.namespace == 'aten' and not func.is_view
        return func(*args, **kwargs or {})


class _Recorder(TorchFunctionMode):
    """Keep the calls of PyTorch that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        with _Kernels() as kernels:
            result = func(*args, **kwargs or {})
        if kernels.any:
            self.calls.append((func, args, kwargs or {}))
        return result


def kernel_calls(step: Callable[[], Any]) -> list[Call]:
    """Record the calls of PyTorch that compute something, in their order."""
    with _Recorder() as recorder:
        step()
    return recorder.calls


def peak_memory(
    make: Callable[[], Optimizer], before_step: Callable[[], None], device: str
) -> tuple[Optimizer, int]:
    """Make an optimizer and two steps; return it and the peak bytes beside its state in the second.

    Buffers that the optimizer keeps from one step to the next count; ``before_step`` must not
    allocate.
    """
    optimizers = []

    def first_step() -> None:
        optimizers.append(make())
        before_step()
        optimizers[0].step()

    allocated = _allocated_on_gpu if device == 'cuda' else _allocated_on_cpu
    kept, _ = allocated(first_step)
    before_step()
    _, peak = allocated(optimizers[0].step)
    return optimizers[0], kept + peak - _state_bytes(optimizers[0])


def _allocated_on_gpu(work: Callable[[], Any]) -> tuple[int, int]:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before


def _allocated_on_cpu(work: Callable[[], Any]) -> tuple[int, int]:
    """Return the bytes that are left and the peak."""
    # Or the profiler logs when it begins and ends.
    os.environ.setdefault('KINETO_LOG_LEVEL', '6')
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    now = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == '[memory]':
            now += event.nbytes()
            peak = max(peak, now)
    return now, peak


def _state_bytes(optimizer: Optimizer) -> int:
    values = [value for state in optimizer.state.values() for value in state.values()]
    values += [value for group in optimizer.param_groups for value in group.values()]
    return sum(x.nbytes for x in values if isinstance(x, Tensor))


def kernel_launches(step: Callable[[], Any]) -> int:
    """Count the kernels that a step launches on a GPU."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        step()
        torch.cuda.synchronize()
    # cudaLaunchKernel, cudaLaunchKernelExC, cuLaunchKernel and their like.
    return sum(event.name.startswith(('cudaLaunch', 'cuLaunch')) for event in profiled.events())


def host_syncs(step: Callable[[], Any]) -> int:
    """Count how often a step waits for the GPU, as PyTorch's ``set_sync_debug_mode`` sees it."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode('default')
    return sum('called a synchronizing CUDA operation' in str(x.message) for x in caught)
