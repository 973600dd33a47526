"""Read settings and state of an optimizer, of a run and of a checkpoint."""

import ast
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from ..utils.runner import plain_model
from ..utils.type_names import type_name

# Key of a checkpoint's meta: type of the optimizer and options of its groups, as configured.
OPTIMIZER = 'optimizer'


def settings_of(optim_wrapper: OptimWrapper) -> dict[str, Any]:
    """Return the settings of an optimizer as its config made it, for checkpoints.

    Args:
        optim_wrapper (OptimWrapper): The wrapper, before it trains.

    Returns:
        dict[str, Any]: ``type``, and ``groups`` with the options of each group in plain types.
    """
    simple = (bool, int, float, str, type(None), list, tuple)
    groups = [
        {
            key: as_list(value)
            for key, value in group.items()
            if isinstance(value, simple)
            and key not in ('params', 'param_names')
            and not key.startswith('initial_')
        }
        | {'lr': group.get('initial_lr', group.get('lr'))}
        for group in optim_wrapper.param_groups
    ]
    return dict(type=type(optim_wrapper.optimizer).__name__, groups=groups)


def as_list(value: Any) -> Any:
    """Return a tuple as a list, for comparisons; any other value as it is.

    Args:
        value (Any): The value of an option.

    Returns:
        Any: The list or the value.
    """
    return list(value) if isinstance(value, tuple) else value


def groups_of(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameter groups of a checkpoint's optimizer, in the order of MMEngine's wrapper.

    Args:
        state (dict[str, Any]): The checkpoint's optimizer.

    Returns:
        list[dict[str, Any]]: The groups; the group that MMEngine keeps for its log is the last.
    """
    base = state.get('base_param_settings')
    return [*state['param_groups'], *([base] if base is not None else [])]


def saved_type(meta: dict[str, Any]) -> str:
    """Find the type of the optimizer that a checkpoint holds.

    Args:
        meta (dict[str, Any]): The checkpoint's meta.

    Returns:
        str: The type as its config names it; empty if it is unknown.
    """
    if OPTIMIZER in meta:
        return meta[OPTIMIZER]['type']
    # The text of the config is read and not run.
    cfg = meta.get('cfg')
    try:
        tree = ast.parse(cfg) if isinstance(cfg, str) else None
    except (SyntaxError, ValueError):
        return ''
    for node in tree.body if tree else []:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'optim_wrapper':
            kind = _argument(_argument(node.value, 'optimizer'), 'type')
            return type_name(kind.value) if isinstance(kind, ast.Constant) else ''
    return ''


def _argument(node: ast.AST | None, name: str) -> ast.AST | None:
    """Return a keyword of ``dict(...)`` or a key of ``{...}``."""
    if isinstance(node, ast.Call):
        return next((word.value for word in node.keywords if word.arg == name), None)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return next((value for key, value in pairs if getattr(key, 'value', '') == name), None)
    return None


def saved_states(
    runner: Runner, state: dict[str, Any]
) -> list[tuple[str, nn.Parameter, dict[str, Any]]]:
    """Return the state of each parameter in a checkpoint's optimizer of the same groups.

    Args:
        runner (Runner): The runner.
        state (dict[str, Any]): The checkpoint's optimizer.

    Returns:
        list[tuple[str, nn.Parameter, dict[str, Any]]]: Name, parameter and state; the state is
        empty if the checkpoint has none.
    """
    names = {id(p): name for name, p in plain_model(runner.model).named_parameters()}
    params = [p for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']]
    indices = [index for group in state['param_groups'] for index in group['params']]
    return [
        (names.get(id(p), 'a parameter'), p, state['state'].get(index, {}))
        for p, index in zip(params, indices, strict=True)
    ]
