"""What LAMB and LARS share: checked groups, float32 state, dense gradients, accurate norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .checks import invalid

# Elements that one running float32 sum may add up; see l2_norm.
NORM_BLOCK = 1024


def arithmetic_dtype(param: Tensor) -> torch.dtype:
    """The dtype in which a parameter is updated and its state kept.

    Args:
        param (Tensor): The parameter.

    Returns:
        torch.dtype: float64 for a float64 parameter, float32 for any other.
    """
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def l2_norm(x: Tensor) -> Tensor:
    """The L2 norm of a tensor, good to a few units of its last place at any size.

    On a CPU, PyTorch sums a tensor's squares in a few running float32 sums, which is off by up to
    4e-4 at 2 million elements. Here these sums are kept short: a norm per block of the tensor,
    then the norm of those, in float64. A GPU sums in a tree and needs no such help.

    Args:
        x (Tensor): A float32 or float64 tensor of any shape, an empty one included.

    Returns:
        Tensor: The norm, 0-d, of the dtype and on the device of ``x``; nothing is read back
        to the host.
    """
    if x.device.type != 'cpu' or x.numel() <= NORM_BLOCK:
        return torch.linalg.vector_norm(x)
    flat = x.flatten()
    whole = flat.numel() // NORM_BLOCK * NORM_BLOCK
    blocks = torch.linalg.vector_norm(flat[:whole].view(-1, NORM_BLOCK), dim=1)
    rest = torch.linalg.vector_norm(flat[whole:])
    return torch.linalg.vector_norm(torch.hstack([blocks, rest]), dtype=torch.float64).to(x.dtype)


def describe(param_groups: list[dict[str, Any]], index: int, position: int) -> str:
    """Name a parameter for an error: by its name if it has one, else by its place.

    Args:
        param_groups (list[dict]): The groups of an optimizer.
        index (int): Which group.
        position (int): Which of its parameters.

    Returns:
        str: Such as ``parameter 2 of group 0, shape (8, 3)``.
    """
    group = param_groups[index]
    if 'param_names' in group:
        place = f'parameter {group["param_names"][position]!r}'
    else:
        place = f'parameter {position} of group {index}'
    return f'{place}, shape {tuple(group["params"][position].shape)}'


def trained(group: dict[str, Any]) -> list[Tensor]:
    """The parameters of a group that an update changes.

    Args:
        group (dict[str, Any]): A group of an optimizer.

    Returns:
        list[Tensor]: Those that have a gradient and are not empty.
    """
    return [p for p in group['params'] if p.grad is not None and p.numel() > 0]


class LayerwiseOptimizer(Optimizer):
    """Base of the optimizers that scale every tensor's step by its own norms.

    It checks the options of every group, keeps the state of half-precision parameters in float32
    through ``load_state_dict``, completes the groups of checkpoints that lack an option, and
    refuses sparse gradients and parameters that are not real floating-point numbers.

    Args:
        params (Iterable): Parameters, ``(name, parameter)`` pairs, or dicts of groups.
        defaults (dict[str, Any]): The options, for groups that do not set their own.

    Raises:
        ValueError: If an option of the defaults or of a group is invalid, or a parameter's dtype.
    """

    def __init__(self, params: Iterable, defaults: dict[str, Any]) -> None:
        self.check_options(defaults)
        super().__init__(params, defaults)

    def check_options(self, options: dict[str, Any]) -> None:
        """Refuse invalid options; each optimizer knows its own.

        Args:
            options (dict[str, Any]): All options of a group.

        Raises:
            ValueError: At the first invalid one, in one line.
        """
        raise NotImplementedError

    def check_group(self, group: dict[str, Any]) -> None:
        """Refuse a group that the optimizer cannot train.

        Args:
            group (dict[str, Any]): The group that was added last.

        Raises:
            ValueError: If an option or a parameter's dtype is invalid.
        """
        self.check_options(group)
        for position, p in enumerate(group['params']):
            if not p.is_floating_point():
                name = describe(self.param_groups, len(self.param_groups) - 1, position)
                raise invalid('dtype', p.dtype, f'real floating-point ({name})')

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; a group that is refused leaves the optimizer as it was.

        Args:
            param_group (dict[str, Any]): ``params`` and the options that differ from the
                defaults.

        Raises:
            ValueError: If an option or a parameter's dtype is invalid.
        """
        super().add_param_group(param_group)
        try:
            self.check_group(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; that of half-precision parameters stays float32 bit for bit.

        Args:
            state_dict (dict[str, Any]): What ``state_dict()`` returned.
        """
        loaded: dict[str, Any] = {}

        def keep(_: Optimizer, state_dict: dict[str, Any]) -> None:
            loaded.update(state_dict)

        # As the last of the hooks it sees the state that is loaded, not yet cast by torch to the
        # parameters' dtype.
        handle = self.register_load_state_dict_pre_hook(keep)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        ids = (i for group in loaded['param_groups'] for i in group['params'])
        params = (p for group in self.param_groups for p in group['params'])
        for i, p in zip(ids, params, strict=True):
            dtype = arithmetic_dtype(p)
            if p.dtype == dtype:
                continue
            for key, value in loaded['state'].get(i, {}).items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    self.state[p][key] = value.to(p.device, dtype)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickled or loaded state; options it lacks stay as they were.

        Args:
            state (dict[str, Any]): The attributes to take over.
        """
        before = self.__dict__.get('param_groups', [])
        super().__setstate__(state)
        for index, group in enumerate(self.param_groups):
            own = before[index] if index < len(before) else {}
            for name, default in self.defaults.items():
                if name != 'differentiable':  # torch adds it to the defaults, never to groups
                    group.setdefault(name, own.get(name, default))

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def _refuse_sparse_gradients(self) -> None:
        for index, group in enumerate(self.param_groups):
            for position, p in enumerate(group['params']):
                if p.grad is not None and p.grad.layout != torch.strided:
                    name = describe(self.param_groups, index, position)
                    raise RuntimeError(
                        f'{type(self).__name__} does not support sparse gradients, as that of '
                        f'{name}. Must be dense (sparse=False).'
                    )
