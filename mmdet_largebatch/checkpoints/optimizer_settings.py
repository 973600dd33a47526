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
    """Return ``type`` and ``groups`` of an optimizer that has not trained yet, for checkpoints."""
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
    """Return a tuple as a list, for comparisons; any other value as it is."""
    return list(value) if isinstance(value, tuple) else value


def groups_of(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameter groups of a checkpoint's optimizer, as MMEngine's wrapper lists them."""
    base = state.get('base_param_settings')
    return [*state['param_groups'], *([base] if base is not None else [])]


def saved_states(
    runner: Runner, state: dict[str, Any]
) -> list[tuple[str, nn.Parameter, dict[str, Any]]]:
    """Return name and state of each parameter, from a checkpoint's optimizer of the same groups."""
    names = {id(p): name for name, p in plain_model(runner.model).named_parameters()}
    params = [p for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']]
    indices = [index for group in state['param_groups'] for index in group['params']]
    return [
        (names.get(id(p), 'a parameter'), p, state['state'].get(index, {}))
        for p, index in zip(params, indices, strict=True)
    ]


def saved_type(meta: dict[str, Any]) -> str:
    """Return the type of a checkpoint's optimizer; empty if it is unknown."""
    if OPTIMIZER in meta:
        return meta[OPTIMIZER]['type']
    # MMEngine's own hook saves the text of the config. It is parsed, not run.
    try:
        tree = ast.parse(meta.get('cfg') or '')
    except (SyntaxError, ValueError, TypeError):
        return ''
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == 'optim_wrapper':
            kind = _keyword(_keyword(node.value, 'optimizer'), 'type')
            return type_name(kind.value) if isinstance(kind, ast.Constant) else ''
    return ''


def _keyword(call: ast.AST | None, name: str) -> ast.AST | None:
    words = call.keywords if isinstance(call, ast.Call) else []
    return next((word.value for word in words if word.arg == name), None)
