"""Save and restore the state of hooks, which MMEngine does not save."""

from inspect import signature
from typing import Any

import numpy as np
import torch
from mmengine.hooks import EarlyStoppingHook, Hook, SyncBuffersHook
from mmengine.runner import Runner

# Key of a checkpoint.
HOOKS_STATE = 'hooks'
# Fields of MMEngine's hooks that a restarted process would reset.
FIELDS = {
    EarlyStoppingHook: ('wait_count', 'best_score', 'monitor', 'rule'),
    SyncBuffersHook: ('called_in_train',),
}
# Fields that the config sets. A state with another value is no state of this hook.
SETTINGS = ('monitor', 'rule')


def collect(runner: Runner) -> dict[str, list[dict[str, Any] | None]]:
    """Collect the state of every hook that has one.

    Hooks with state are those with ``state_dict()`` and ``load_state_dict(state)``, and MMEngine's
    ``EarlyStoppingHook`` and ``SyncBuffersHook``.

    Returns:
        dict[str, list[dict or None]]: The states of the hooks of each class name, in their order.
        None replaces a state that holds more than numbers, strings, tensors, lists and dicts.
    """
    states: dict[str, list[dict[str, Any] | None]] = {}
    for hook in runner.hooks:
        fields, name = _fields(hook), type(hook).__name__
        if fields is None:
            continue
        state = {field: getattr(hook, field) for field in fields} or hook.state_dict()
        try:
            states.setdefault(name, []).append(_plain(state))
        except TypeError as error:
            runner.logger.warning(f'The state of {name} is not saved: {error}.')
            states[name].append(None)
    return states


def restore(runner: Runner, states: dict[str, list[dict[str, Any] | None]]) -> list[str]:
    """Restore states of :func:`collect`, and return the class names of hooks that it lacks."""
    left = {name: list(of_class) for name, of_class in states.items()}
    without = []
    for hook in runner.hooks:
        fields, name = _fields(hook), type(hook).__name__
        if fields is None:
            continue
        state = left[name].pop(0) if left.get(name) else None
        if state is None or _is_of_other_settings(hook, fields, state):
            without.append(name)
        elif fields:
            for field in set(fields) & set(state):
                setattr(hook, field, state[field])
        else:
            hook.load_state_dict(state)
    return without


def _is_of_other_settings(hook: Hook, fields: tuple[str, ...], state: dict[str, Any]) -> bool:
    """Return True for a state that counts another metric. Older checkpoints do not name it."""
    names = set(SETTINGS) & set(fields) & set(state)
    return any(state[name] != getattr(hook, name) for name in names)


def _fields(hook: Hook) -> tuple[str, ...] | None:
    """Return the fields of a hook's state; () if it has ``state_dict()``, None without state."""
    for kind, fields in FIELDS.items():
        if isinstance(hook, kind):
            return fields
    own = _takes(hook, 'state_dict') and _takes(hook, 'load_state_dict', {})
    return () if own else None


def _takes(hook: Hook, name: str, *arguments: Any) -> bool:
    """Return True if a hook has a method that takes these arguments."""
    method: Any = getattr(hook, name, None)
    try:
        signature(method).bind(*arguments)
    except (TypeError, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    """Copy a value to types that every loader of checkpoints accepts."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    raise TypeError(f'it holds a {type(value).__name__}')
