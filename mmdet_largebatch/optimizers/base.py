"""What LAMB and LARS share: checked groups, float32 state, dense gradients, observed ratios."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .checks import invalid
from .tensors import arithmetic_dtype


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


# Told of a tensor that is being updated: parameter, trust ratio, ||p||, ||update||. The numbers are
# floats, or 0-d tensors on the parameter's device.
Observer = Callable[[Tensor, 'Tensor | float', 'Tensor | float', 'Tensor | float'], None]


class LayerwiseOptimizer(Optimizer):
    """Base of the optimizers that scale every tensor's step by its own norms.

    It checks the options of every group, keeps the state of half-precision parameters in float32
    through ``load_state_dict``, completes the groups of checkpoints that lack an option, and
    refuses sparse gradients and parameters that are not real floating-point numbers.

    While ``observer`` is set, ``step`` calls it for every tensor that it scales by a trust ratio,
    with the parameter, the ratio, the norm of the parameter before the update, and that of what
    the ratio multiplies: LAMB's ``u``, LARS's ``g + wd * p``. The numbers are floats, or
    0-d tensors on the parameter's device. It is neither copied nor saved.

    Args:
        params (Iterable): Parameters, ``(name, parameter)`` pairs, or dicts of groups.
        defaults (dict[str, Any]): The options, for groups that do not set their own.

    Raises:
        ValueError: If an option of the defaults or of a group is invalid, or a parameter's dtype.
    """

    observer: Observer | None = None

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

        def restore(_: Optimizer) -> None:
            self._restore_float32_state(loaded)

        # As the last of the pre-hooks `keep` sees the state that is loaded, not yet cast by torch
        # to the parameters' dtype; as the first of the post-hooks `restore` comes before a user's.
        handles = (
            self.register_load_state_dict_pre_hook(keep),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for handle in handles:
                handle.remove()

    def _restore_float32_state(self, loaded: dict[str, Any]) -> None:
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
