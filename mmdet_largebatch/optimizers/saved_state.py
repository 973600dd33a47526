"""Check a saved optimizer state against the optimizer that loads it.

PyTorch pairs saved state with parameters by position and looks at no shape: its operators do, at
the next step. The fused kernels do not, so a state is checked here, once and before anything of
the optimizer is changed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError

# In these a moment can be saved; it is kept in the dtype of the arithmetic.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Apex takes a step as a C int.
LAST_STEP = 2**31 - 1


class Trained(Tensor):
    """Type of a parameter that has a gradient."""

    grad: Tensor


def arithmetic_dtype(param: Tensor) -> torch.dtype:
    """Return the dtype of a parameter's update and state: float64 for float64, else float32."""
    return torch.float64 if param.dtype == torch.float64 else torch.float32


def describe(param_groups: list[dict[str, Any]], index: int, position: int) -> str:
    """Name a parameter for an error: by its name if it has one, else by its place.

    Args:
        param_groups (list[dict]): The groups of an optimizer.
        index (int): Index of the group.
        position (int): Index of the parameter in the group.

    Returns:
        str: Such as ``parameter 2 of group 0, shape (8, 3)``.
    """
    group = param_groups[index]
    if 'param_names' in group:
        place = f'parameter {group["param_names"][position]!r}'
    else:
        place = f'parameter {position} of group {index}'
    return f'{place}, shape {tuple(group["params"][position].shape)}'


class SavedState:
    """A saved state that fits an optimizer.

    Args:
        saved (dict[str, Any]): What ``state_dict()`` of some optimizer returned.
        name (str): Name of the optimizer that loads it.
        param_groups (list[dict]): Its groups.
        keys (Sequence[str]): Names of the tensors that it keeps for a parameter.
        marks (Sequence[str]): Options that tell its groups from another optimizer's.
        counts_steps (bool): Whether its groups count steps.

    Raises:
        SettingError: If the state does not fit, in one line.
    """

    def __init__(
        self,
        saved: dict[str, Any],
        name: str,
        param_groups: list[dict[str, Any]],
        keys: Sequence[str],
        marks: Sequence[str],
        counts_steps: bool,
    ) -> None:
        self.name, self.param_groups = name, param_groups
        self.keys, self.marks, self.counts_steps = keys, marks, counts_steps
        self.saved_groups, self.saved_state = self._parts(saved)
        self._check_places()
        for index, group in enumerate(self.saved_groups):
            self._check_group(index, group)
            for position, i in enumerate(group['params']):
                self._check_param(index, position, self.saved_state.get(i, {}))

    def params(self) -> list[tuple[Hashable, Tensor]]:
        """Pair the saved indices with the parameters.

        Returns:
            list[tuple[Hashable, Tensor]]: Of every parameter its index in the state, and itself.
        """
        return [
            pair
            for saved, group in zip(self.saved_groups, self.param_groups, strict=True)
            for pair in zip(saved['params'], group['params'], strict=True)
        ]

    def tensors(self) -> dict[Hashable, dict[str, Tensor]]:
        """Copy the tensors to where their parameters are, laid out in memory as these.

        The copies share no memory with the state that was saved or with each other.

        Returns:
            dict[Hashable, dict[str, Tensor]]: By index of the parameter, in the dtype of the
            arithmetic.
        """
        with torch.no_grad():
            return {
                i: {
                    key: torch.empty_like(p, dtype=arithmetic_dtype(p)).copy_(x)
                    for key, x in self.saved_state[i].items()
                }
                for i, p in self.params()
                if i in self.saved_state
            }

    def _refusal(self, reason: str, requirement: str) -> SettingError:
        return SettingError(
            f'{self.name} cannot take the optimizer state of the checkpoint: {reason}. '
            f'Must be {requirement}. To begin from the weights of the checkpoint alone, give it as '
            'load_from without resume.'
        )

    def _parts(self, saved: Any) -> tuple[list[dict[str, Any]], dict[Hashable, dict[str, Any]]]:
        """The groups and the state; state of no parameter is refused."""
        groups = saved.get('param_groups') if isinstance(saved, dict) else None
        state = saved.get('state') if isinstance(saved, dict) else None
        if (
            not isinstance(groups, (list, tuple))
            or not isinstance(state, dict)
            or not all(isinstance(group, dict) for group in groups)
            or not all(isinstance(group.get('params'), (list, tuple)) for group in groups)
            or not all(isinstance(of_param, dict) for of_param in state.values())
        ):
            raise self._refusal(
                'it is no state of an optimizer', "a dict of 'state' and 'param_groups'"
            )
        return list(groups), state

    def _check_places(self) -> None:
        """The same number of groups, of parameters in each, and a place for all of the state."""
        here, there = len(self.param_groups), len(self.saved_groups)
        if here != there:
            raise self._refusal(
                f'it has a different number of parameter groups, {there}', f'{here} as here'
            )
        for index, (group, saved) in enumerate(
            zip(self.param_groups, self.saved_groups, strict=True)
        ):
            here, there = len(group['params']), len(saved['params'])
            if here != there:
                raise self._refusal(
                    f'its group {index} has another size, {there} parameters', f'{here} as here'
                )
        places = [i for saved in self.saved_groups for i in saved['params']]
        if not all(isinstance(i, int) for i in places) or len(set(places)) < len(places):
            raise self._refusal(
                f'its groups count their parameters as {places}', 'one integer for each parameter'
            )
        surplus = [key for key in self.saved_state if key not in set(places)]
        if surplus:
            raise self._refusal(
                f'it has a state for {surplus[0]!r}, which is in none of its groups',
                'of the parameters in its groups alone',
            )

    def _check_group(self, index: int, saved: dict[str, Any]) -> None:
        missing = [mark for mark in self.marks if mark not in saved]
        if missing:
            raise self._refusal(
                f'its group {index} has no {missing[0]}, so another optimizer saved it',
                f'the state of {self.name}',
            )
        if 'param_names' in saved:
            self._check_names(index, saved)
        if not self.counts_steps:
            return
        if 'step' in saved and not _is_step(saved['step']):
            raise self._refusal(
                f'its group {index} has step={saved["step"]!r}', f'an integer from 0 to {LAST_STEP}'
            )
        if 'step' not in saved and any(self.saved_state.get(i) for i in saved['params']):
            raise self._refusal(
                f'its group {index} has moments and no step', f'the state of {self.name}'
            )

    def _check_names(self, index: int, saved: dict[str, Any]) -> None:
        group, theirs = self.param_groups[index], saved['param_names']
        if not isinstance(theirs, (list, tuple)) or len(theirs) != len(saved['params']):
            raise self._refusal(
                f'its group {index} has param_names={theirs!r}',
                f'a list of {len(saved["params"])} names',
            )
        for position, (ours, other) in enumerate(
            zip(group.get('param_names', theirs), theirs, strict=True)
        ):
            if ours != other:
                raise self._refusal(
                    f'{describe(self.param_groups, index, position)}, is {other!r} there',
                    'the same parameters in the same order',
                )

    def _check_param(self, index: int, position: int, saved: dict[str, Any]) -> None:
        """All tensors of a parameter or none, each of its shape."""
        if not saved:
            return
        p = self.param_groups[index]['params'][position]
        name = describe(self.param_groups, index, position)
        if set(saved) != set(self.keys):
            raise self._refusal(
                f'{name}, has {_listed(map(str, saved))} there', f'{_listed(self.keys)}, or nothing'
            )
        for key in self.keys:
            fault = _fault(saved[key], p)
            if fault is not None:
                raise self._refusal(f'{name}, has {key} {fault[0]} there', fault[1])


def check_step(
    name: str, param_groups: list[dict[str, Any]], state: Any, keys: Sequence[str]
) -> None:
    """Refuse a step on tensors that do not belong together, before anything is changed.

    Args:
        name (str): Name of the optimizer.
        param_groups (list[dict]): Its groups.
        state (dict[Tensor, dict]): Its state.
        keys (Sequence[str]): Names of the tensors that it keeps for a parameter.

    Raises:
        RuntimeError: If a gradient is sparse, or a gradient or a state is not of its parameter's
            shape or device, or a state of another dtype than the arithmetic's.
    """
    for index, group in enumerate(param_groups):
        for position, p in enumerate(group['params']):
            if p.grad is not None and not _match(p, p.grad, state.get(p), keys):
                raise _mismatch(
                    name, describe(param_groups, index, position), p, state.get(p) or {}, keys
                )


def _match(p: Tensor, g: Tensor, of_param: dict[str, Any] | None, keys: Sequence[str]) -> bool:
    # Plain comparisons, since this is called for every tensor in every step.
    shape, device, dtype = p.shape, p.device, torch.float32
    if g.layout is not torch.strided or g.shape != shape or g.device != device:
        return False
    if not of_param:
        return True
    if p.dtype is torch.float64:
        dtype = torch.float64
    found = 0
    for key in keys:
        x = of_param.get(key)
        if x is None:
            continue
        if (
            not isinstance(x, Tensor)
            or x.layout is not torch.strided
            or x.dtype is not dtype
            or x.shape != shape
            or x.device != device
        ):
            return False
        found += 1
    return found == 0 or found == len(keys)


def _mismatch(
    name: str, param: str, p: Trained, of_param: dict[str, Any], keys: Sequence[str]
) -> RuntimeError:
    """Word the error for a parameter whose tensors do not match."""
    if p.grad.layout != torch.strided:
        return RuntimeError(
            f'{name} does not support sparse gradients, as that of {param}. '
            'Must be dense (sparse=False).'
        )
    named = {'gradient': p.grad, **{key: of_param.get(key) for key in keys}}
    for key, x in named.items():
        fault = _fault(x, p, exact=key != 'gradient', device=p.device)
        if fault is not None:
            return RuntimeError(f'{param}, its {key} is {fault[0]}. Must be {fault[1]}.')
    raise AssertionError(f'{param}: its tensors match')


def _fault(
    x: Any, p: Tensor, exact: bool = False, device: torch.device | None = None
) -> tuple[str, str] | None:
    """Return the defect of a state tensor and the requirement.

    With ``exact`` its dtype has to be the arithmetic's, with ``device`` it has to be there.
    """
    dtypes = (arithmetic_dtype(p),) if exact else DTYPES
    if not isinstance(x, Tensor):
        return f'of type {type(x).__name__}', 'a tensor'
    if x.layout != torch.strided or x.is_nested:
        return f'of layout {x.layout}', 'a dense tensor'
    if x.is_meta and not p.is_meta:
        return 'on the meta device', 'a tensor with values'
    if x.dtype not in dtypes:
        return f'of dtype {x.dtype}', ' or '.join(map(str, dtypes))
    if x.shape != p.shape:
        return f'of shape {tuple(x.shape)}', 'of the same shape'
    if device is not None and x.device != device:
        return f'on {x.device}', f'on {device} as its parameter'
    return None


def _is_step(value: Any) -> bool:
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_meta or value.is_complex():
            return False
        value = value.item()
    try:
        whole = not isinstance(value, (bool, str, bytes)) and int(value) == value
    except (TypeError, ValueError, OverflowError):
        return False
    return whole and 0 <= value <= LAST_STEP


def _listed(words: Any) -> str:
    return ', '.join(words)
