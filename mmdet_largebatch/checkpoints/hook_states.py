"""Save and restore the state of hooks, which MMEngine does not save."""

from typing import Any

import numpy as np
import torch
from mmengine.hooks import EarlyStoppingHook, Hook, SyncBuffersHook
from mmengine.runner import Runner

# Key of a checkpoint.
HOOKS_STATE = 'hooks'
# Fields of MMEngine's hooks that a restarted process would reset.
FIELDS = {EarlyStoppingHook: ('wait_count', 'best_score'), SyncBuffersHook: ('called_in_train',)}


def collect(runner: Runner) -> dict[str, list[dict[str, Any] | None]]:
    """Collect the state of every hook that has one.

    Hooks with state are those with ``state_dict()`` and ``load_state_dict(state)``, and MMEngine's
    ``EarlyStoppingHook`` and ``SyncBuffersHook``.

    Args:
        runner (Runner): The runner.

    Returns:
        dict[str, list[dict or None]]: The states of the hooks of each class name, in their order.
        None replaces a state that holds more than numbers, strings, tensors, lists and dicts.
    """
    states: dict[str, list[dict[str, Any] | None]] = {}
    for hook in runner.hooks:
        fields = _fields(hook)
        if fields:
            state = {name: getattr(hook, name) for name in fields}
        elif _offers_state(hook):
            state = hook.state_dict()
        else:
            continue
        name = type(hook).__name__
        try:
            states.setdefault(name, []).append(_plain(state))
        except TypeError as error:
            runner.logger.warning(f'The state of {name} is not saved: {error}.')
            states[name].append(None)
    return states


def restore(runner: Runner, states: dict[str, list[dict[str, Any] | None]]) -> list[str]:
    """Restore the states of hooks.

    Args:
        runner (Runner): The runner.
        states (dict[str, list[dict or None]]): As :func:`collect` returns them.

    Returns:
        list[str]: Class names of hooks with state that the checkpoint has no state for.
    """
    left = {name: list(of_class) for name, of_class in states.items()}
    without = []
    for hook in runner.hooks:
        fields, name = _fields(hook), type(hook).__name__
        if not fields and not _offers_state(hook):
            continue
        state = left[name].pop(0) if left.get(name) else None
        if state is None:
            without.append(name)
        elif fields:
            for field in fields:
                setattr(hook, field, state[field])
        else:
            hook.load_state_dict(state)
    return without


def _fields(hook: Hook) -> tuple:
    return next((fields for kind, fields in FIELDS.items() if isinstance(hook, kind)), ())


def _offers_state(hook: Hook) -> bool:
    return all(callable(getattr(hook, name, None)) for name in ('state_dict', 'load_state_dict'))


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
