"""What benchmark_optimizers.py lets optimizers step on, and what one step needs."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import Tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode

from mmdet_largebatch import SettingError

LR, WEIGHT_DECAY = 1e-4, 1e-4
# Above 1, where LAMB clips.
GRAD_NORM = 10.0
MEASURED = 'measured step'


@dataclass(frozen=True)
class Group:
    """A parameter group, without its tensors.

    Args:
        shapes (tuple[torch.Size, ...]): The shapes of its parameters.
        lr (float): Learning rate.
        weight_decay (float): Weight decay.
    """

    shapes: tuple[torch.Size, ...]
    lr: float
    weight_decay: float

    def of_one_element(self) -> 'Group':
        """The same with one element in every tensor, and as many dimensions."""
        shapes = tuple(torch.Size([1] * len(shape)) for shape in self.shapes)
        return Group(shapes, self.lr, self.weight_decay)


def recipe_groups(cfg: Config) -> list[Group]:
    """The groups that a recipe trains its model in.

    Args:
        cfg (Config): The config. Of its ``optim_wrapper`` the constructor and ``paramwise_cfg``
            count; LR and weight decay before their multipliers are the benchmark's.

    Returns:
        list[Group]: The groups, without frozen and empty parameters.

    Raises:
        SettingError: If there is no model, no optim wrapper, or nothing to train.
    """
    for key in ('model', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise SettingError(f'{key} is not set. Must be, for an optimizer to step on it.')
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    model = deepcopy(cfg.model)
    _without_weights(model)
    wrapper = {k: v for k, v in cfg.optim_wrapper.items() if k in ('constructor', 'paramwise_cfg')}
    wrapper['optimizer'] = dict(type=torch.optim.SGD, lr=LR, weight_decay=WEIGHT_DECAY)
    groups = []
    for group in build_optim_wrapper(MODELS.build(model), wrapper).optimizer.param_groups:
        shapes = tuple(p.shape for p in group['params'] if p.requires_grad and p.numel())
        if shapes:
            groups.append(Group(shapes, group['lr'], group['weight_decay']))
    if not groups:
        raise SettingError('model has no parameter to train. Must have one.')
    return groups


def _without_weights(node: Any) -> None:
    """Keep a model's config from loading weights, some of which are fetched as it is built."""
    if isinstance(node, dict):
        for key in {'init_cfg', 'pretrained'} & node.keys():
            node[key] = None
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            _without_weights(child)


class Problem:
    """Weights and gradients, the same for every optimizer.

    Args:
        groups (list[Group]): The groups.
        device (str): ``'cpu'`` or ``'cuda'``.
    """

    def __init__(self, groups: list[Group], device: str) -> None:
        self.groups = groups
        rng = torch.Generator().manual_seed(0)
        shapes = [shape for group in groups for shape in group.shapes]
        self._weights, self._written = (
            [torch.randn(shape, generator=rng).mul_(scale).to(device) for shape in shapes]
            for scale in (0.05, 1.0)
        )
        norm = math.hypot(*(x.norm().item() for x in self._written))
        torch._foreach_mul_(self._written, GRAD_NORM / norm)
        self._gradients = [x.clone() for x in self._written]

    def new_groups(self) -> list[dict[str, Any]]:
        """Parameters for one optimizer, with the gradients that all share.

        Returns:
            list[dict[str, Any]]: The groups. Those without weight decay are left out of LARS's
            adaptation, as in the recipes; other optimizers don't know ``lars_exclude``.
        """
        weights, groups = iter(self._weights), []
        for group in self.groups:
            params = [torch.nn.Parameter(next(weights).clone()) for _ in group.shapes]
            options = dict(lr=group.lr, weight_decay=group.weight_decay)
            groups.append(dict(options, params=params, lars_exclude=group.weight_decay == 0))
        self.write_gradients(groups)
        return groups

    def write_gradients(self, groups: list[dict[str, Any]]) -> None:
        """Give parameters their gradients anew, whatever an optimizer made of them.

        Args:
            groups (list[dict[str, Any]]): What :meth:`new_groups` returned.
        """
        torch._foreach_copy_(self._gradients, self._written)
        params = (p for group in groups for p in group['params'])
        for p, g in zip(params, self._gradients, strict=True):
            p.grad = g


class Contestant:
    """An optimizer on parameters of its own.

    Args:
        problem (Problem): Weights and gradients.
        kind (type[Optimizer]): Its class.
        options (dict[str, Any]): For the class, beside the groups and the LR.
    """

    def __init__(self, problem: Problem, kind: type[Optimizer], options: dict[str, Any]) -> None:
        self._problem = problem
        self._groups = problem.new_groups()
        self._make = lambda: kind(list(map(dict, self._groups)), lr=LR, **options)
        self._calls: list[Call] = []
        self.optimizer: Optimizer | None = None

    def write_gradients(self) -> None:
        """Give its parameters their gradients anew."""
        self._problem.write_gradients(self._groups)

    def prepare(self, device: str) -> int:
        """Make the optimizer and its first two steps.

        Args:
            device (str): ``'cpu'`` or ``'cuda'``.

        Returns:
            int: The bytes of :func:`peak_memory`.
        """
        self.optimizer, peak = peak_memory(self._make, self.write_gradients, device)
        return peak

    def time(self, wait: Callable[[], None]) -> float:
        """Make a step.

        Args:
            wait (Callable[[], None]): Returns when the device has done its work.

        Returns:
            float: The seconds that it took.
        """
        return self._seconds(self.optimizer.step, wait)

    @torch.no_grad()
    def time_kernels(self, wait: Callable[[], None]) -> float:
        """Call what a step calls of PyTorch, without what the optimizer does between the calls.

        Args:
            wait (Callable[[], None]): Returns when the device has done its work.

        Returns:
            float: The seconds that it took.
        """
        if not self._calls:
            self.write_gradients()
            self._calls = kernel_calls(self.optimizer.step)

        def kernels() -> None:
            for function, args, kwargs in self._calls:
                function(*args, **kwargs)

        return self._seconds(kernels, wait)

    def _seconds(self, work: Callable[[], None], wait: Callable[[], None]) -> float:
        self.write_gradients()
        wait()
        begin = perf_counter()
        work()
        wait()
        return perf_counter() - begin


# A function of PyTorch with its positional and its named arguments.
Call = tuple[Callable[..., Any], tuple, dict[str, Any]]


class _Kernels(TorchDispatchMode):
    """Notes whether there was anything to compute: views, and what is no operator, are not."""

    def __init__(self) -> None:
        super().__init__()
        self.any = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.any |= func.namespace == 'aten' and not func.is_view
        return func(*args, **kwargs or {})


class _Recorder(TorchFunctionMode):
    """Keeps the calls of PyTorch that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        with _Kernels() as kernels:
            result = func(*args, **kwargs or {})
        if kernels.any:
            self.calls.append((func, args, kwargs or {}))
        return result


def kernel_calls(step: Callable[[], None]) -> list[Call]:
    """Record the calls of PyTorch that compute something, in their order.

    Args:
        step (Callable[[], None]): Makes a step.

    Returns:
        list[Call]: The calls. Made again they take the time of the kernels, small ones mostly that
        of reaching them.
    """
    with _Recorder() as recorder:
        step()
    return recorder.calls


def peak_memory(
    make: Callable[[], Optimizer], before_step: Callable[[], None], device: str
) -> tuple[Optimizer, int]:
    """Measure the memory that an optimizer takes beside its state, by its second step.

    Args:
        make (Callable[[], Optimizer]): Makes it; its parameters and their gradients are there.
        before_step (Callable[[], None]): Called before each step; takes no memory.
        device (str): ``'cpu'`` or ``'cuda'``.

    Returns:
        tuple[Optimizer, int]: The optimizer, and the most bytes that were allocated at any time
        of the step since before it was made, less the bytes of its state.
    """
    if device == 'cuda':
        already = torch.cuda.memory_allocated()
        optimizer = make()
        before_step()
        optimizer.step()
        before_step()
        torch.cuda.reset_peak_memory_stats()
        optimizer.step()
        return optimizer, torch.cuda.max_memory_allocated() - already - _state_bytes(optimizer)
    # Or the profiler tells in lines of its own when it begins and ends.
    os.environ.setdefault('KINETO_LOG_LEVEL', '6')
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        optimizer = make()
        before_step()
        optimizer.step()
        before_step()
        with record_function(MEASURED):
            optimizer.step()
    return optimizer, _peak_of_trace(profiler) - _state_bytes(optimizer)


def _peak_of_trace(profiler: profile) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'trace.json')
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())['traceEvents']
    begin = next(event['ts'] for event in events if event['name'] == MEASURED)
    memory = [event for event in events if event['name'] == '[memory]']
    allocated = peak = 0
    for event in sorted(memory, key=lambda event: (event['ts'], event['args']['Ev Idx'])):
        if event['ts'] < begin:
            allocated = peak = allocated + event['args']['Bytes']
        else:
            allocated += event['args']['Bytes']
            peak = max(peak, allocated)
    return peak


def _state_bytes(optimizer: Optimizer) -> int:
    values = [value for state in optimizer.state.values() for value in state.values()]
    values += [value for group in optimizer.param_groups for value in group.values()]
    return sum(x.nbytes for x in values if isinstance(x, Tensor))


def kernel_launches(step: Callable[[], None]) -> int:
    """Count the kernels that a step launches on a GPU.

    Args:
        step (Callable[[], None]): Makes the step.

    Returns:
        int: The number of launches.
    """
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as profiler:
        step()
        torch.cuda.synchronize()
    # cudaLaunchKernel, cudaLaunchKernelExC, cuLaunchKernel and their like.
    names = (event.name for event in profiler.events())
    return sum(name.startswith(('cudaLaunch', 'cuLaunch')) for name in names)
