"""Base class of LAMB and LARS: checked groups, float32 state, observed trust ratios."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..checks import invalid
from ..errors import SettingError
from .saved_state import SavedState, Trained, check_step, describe


def trained(group: dict[str, Any]) -> list[Trained]:
    """Return the parameters of a group that an update changes.

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

    It checks the options of every group, refuses a saved state that is not of its own parameters,
    keeps the state of half-precision parameters in float32 through ``load_state_dict``, completes
    the groups of checkpoints that lack an option, and refuses sparse gradients, tensors that do
    not match, and parameters that are not real floating-point numbers.

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
    # Names of the tensors kept for a parameter, and options that no other optimizer's groups have.
    state_keys: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    # Options that a checkpoint does not change.
    own_options: tuple[str, ...] = ()
    counts_steps = False

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

        The tensors are copied: the optimizer shares no memory with the state that it loads. A
        state that is refused leaves the optimizer as it was.

        Args:
            state_dict (dict[str, Any]): What ``state_dict()`` returned.

        Raises:
            SettingError: If the state is of other parameters or another optimizer, or an option
                of a group is invalid, in one line.
        """
        tensors: dict[Tensor, dict[str, Tensor]] = {}

        def check(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
            saved = self._checked(state_dict)
            copies = saved.tensors()
            tensors.update({p: copies[i] for i, p in saved.params() if i in copies})
            return {**state_dict, 'state': copies}

        def restore(_: Optimizer) -> None:
            for p, of_param in tensors.items():
                self.state[p].update(of_param)

        # As the last of the pre-hooks `check` sees the state that is loaded, not yet cast by torch
        # to the parameters' dtype; as the first of the post-hooks `restore` comes before a user's.
        handles = (
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(restore, prepend=True),
        )
        before = self.state, self.param_groups
        try:
            super().load_state_dict(state_dict)
        except Exception:
            self.state, self.param_groups = before
            raise
        finally:
            for handle in handles:
                handle.remove()

    def _checked(self, state_dict: dict[str, Any]) -> SavedState:
        """Hold a saved state and its options against the groups here."""
        saved = SavedState(
            state_dict,
            type(self).__name__,
            self.param_groups,
            self.state_keys,
            self.marks,
            self.counts_steps,
        )
        for index, (group, own) in enumerate(
            zip(saved.saved_groups, self.param_groups, strict=True)
        ):
            options = {**self.defaults, **own, **group}
            options.update({name: own[name] for name in self.own_options})
            try:
                self.check_options(options)
            except SettingError as error:
                raise SettingError(f'Group {index} of the checkpoint: {error}') from error
        return saved

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled or loaded state; options that it lacks keep their values.

        Args:
            state (dict[str, Any]): The attributes. A ``step`` may be a float or a tensor, as in
                checkpoints of other versions of Apex.
        """
        before = self.__dict__.get('param_groups', [])
        super().__setstate__(state)
        for index, group in enumerate(self.param_groups):
            own = before[index] if index < len(before) else {}
            for name, default in self.defaults.items():
                if name != 'differentiable':  # torch adds it to the defaults, never to groups
                    group.setdefault(name, own.get(name, default))
            group.update({name: self.defaults[name] for name in self.own_options})
            if self.counts_steps and 'step' in group:
                group['step'] = int(group['step'])

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def _check_tensors(self) -> None:
        check_step(type(self).__name__, self.param_groups, self.state, self.state_keys)


def double_clip_message(optim_wrapper: Any) -> str | None:
    """Return a warning if both an optimizer of this package and its wrapper clip gradients.

    Args:
        optim_wrapper (OptimWrapper): MMEngine's wrapper of the optimizer.

    Returns:
        str or None: One line, or None if at most one of them clips.
    """
    optimizer = getattr(optim_wrapper, 'optimizer', None)
    clip_grad = getattr(optim_wrapper, 'clip_grad_kwargs', None)
    if not clip_grad or not isinstance(optimizer, LayerwiseOptimizer):
        return None
    max_grad_norm = optimizer.defaults.get('max_grad_norm')
    if max_grad_norm in (None, math.inf):
        return None
    return (
        f'Every update clips twice: the optim wrapper by clip_grad={clip_grad}, then '
        f'{type(optimizer).__name__} by max_grad_norm={max_grad_norm}. '
        'Set max_grad_norm=None or drop clip_grad.'
    )
