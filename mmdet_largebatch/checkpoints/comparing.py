"""Compare a checkpoint with the run that is to resume from it, before anything is loaded."""

import ast
import re
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from ..utils.runner import plain_model
from ..utils.type_names import type_name

# Key of a checkpoint's meta: class of the optimizer, and its groups' options by the config.
OPTIMIZER = 'optimizer'
INSTEAD = 'to begin from its weights, give it as load_from without --resume'
# Tensors of an optimizer's state that have their parameter's shape.
OF_PARAMETERS_SHAPE = ('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer', 'square_avg')


def refusal(runner: Runner, checkpoint: dict[str, Any], path: str) -> str | None:
    """Find why a training cannot be resumed from a checkpoint.

    Args:
        runner (Runner): The runner, with model, optimizer and schedulers built.
        checkpoint (dict[str, Any]): The checkpoint.
        path (str): Its path, for the message.

    Returns:
        str, optional: One line; None where nothing is in the way.
    """
    progress = checkpoint.get('meta') or {}
    if 'state_dict' not in checkpoint or not {'epoch', 'iter'} <= set(progress):
        return (
            f'load_from={path}: it holds weights alone, without the progress of a training. Must '
            f'be a checkpoint of a training to resume; {INSTEAD}.'
        )
    difference = _model_difference(runner, checkpoint['state_dict'])
    if difference is None and isinstance(runner.optim_wrapper, OptimWrapper):
        difference = _optimizer_difference(runner, checkpoint) or _scheduler_difference(
            runner, checkpoint
        )
    return difference and f'{difference} Must be the same to resume from {path}; {INSTEAD}.'


def compare_weights(model: nn.Module, state_dict: dict[str, Any]) -> dict[str, list[str]]:
    """Compare names and shapes of a model's weights with a checkpoint's.

    Args:
        model (nn.Module): The model.
        state_dict (dict[str, Any]): The checkpoint's weights.

    Returns:
        dict[str, list[str]]: Names under ``'shape'``, ``'missing'`` and ``'unexpected'``. Counters
        of batch norm may be missing, as in MMEngine.
    """
    own, saved = plain_model(model).state_dict(), _without_wrapper(state_dict)
    return dict(
        shape=[name for name in own if name in saved and _shape(own[name]) != _shape(saved[name])],
        missing=[name for name in own if name not in saved and 'num_batches_tracked' not in name],
        unexpected=[name for name in saved if name not in own],
    )


def _without_wrapper(state_dict: dict[str, Any]) -> dict[str, Any]:
    return {re.sub(r'^module\.', '', name): value for name, value in state_dict.items()}


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if hasattr(value, 'shape') else None


def _and_more(names: list[str]) -> str:
    return names[0] + (f' and {len(names) - 1} more' if len(names) > 1 else '')


def _model_difference(runner: Runner, state_dict: dict[str, Any]) -> str | None:
    differ = compare_weights(runner.model, state_dict)
    if differ['shape']:
        name = differ['shape'][0]
        own = _shape(plain_model(runner.model).state_dict()[name])
        saved = _shape(_without_wrapper(state_dict)[name])
        return (
            f'model: {_and_more(differ["shape"])} of shape {own} in the config and {saved} in the '
            'checkpoint (another number of classes or of channels?).'
        )
    for kind, words in dict(missing='not in the checkpoint', unexpected='not in the model').items():
        if differ[kind]:
            return f'model: {_and_more(differ[kind])} {words}.'
    return None


def settings_of(optim_wrapper: OptimWrapper) -> dict[str, Any]:
    """Describe an optimizer as its config made it, to be kept in checkpoints.

    Args:
        optim_wrapper (OptimWrapper): The wrapper, before it trains.

    Returns:
        dict[str, Any]: ``type``, and ``groups`` with the options of each in plain types.
    """
    groups = [
        {key: _listed(value) for key, value in group.items() if _is_option(key, value)}
        | {'lr': group.get('initial_lr', group.get('lr'))}
        for group in optim_wrapper.param_groups
    ]
    return dict(type=type(optim_wrapper.optimizer).__name__, groups=groups)


def _is_option(key: str, value: Any) -> bool:
    simple = isinstance(value, (bool, int, float, str, type(None), list, tuple))
    return simple and key not in ('params', 'param_names') and not key.startswith('initial_')


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _optimizer_difference(runner: Runner, checkpoint: dict[str, Any]) -> str | None:
    optimizer, state = runner.optim_wrapper.optimizer, checkpoint.get('optimizer')
    if not state:
        return None
    own = type(optimizer).__name__
    recorded = checkpoint['meta'].get(OPTIMIZER)
    saved = recorded['type'] if recorded else _configured_type(checkpoint['meta'].get('cfg'))
    if not recorded:
        own = type_name(runner.cfg.get('optim_wrapper', {}).get('optimizer')) or own
    if saved and saved != own:
        return f"optim_wrapper.optimizer.type={own}: the checkpoint's optimizer is {saved}."
    sizes = [
        [len(group['params']) for group in groups]
        for groups in (optimizer.param_groups, state['param_groups'])
    ]
    names = [
        [list(group['param_names']) for group in groups if 'param_names' in group]
        for groups in (optimizer.param_groups, state['param_groups'])
    ]
    named = all(map(all, names)) and list(map(len, names)) == list(map(len, sizes))
    if sizes[0] == sizes[1] and (not named or names[0] == names[1]):
        return _state_difference(runner, state)
    flat = [[name for group in of for name in group] for of in names]
    odd = [name for name in flat[0] + flat[1] if (name in flat[0]) != (name in flat[1])]
    what = f' ({_and_more(odd)} in one alone)' if named and odd else ''
    return (
        f'optim_wrapper: {_groups(sizes[0])} by the config and {_groups(sizes[1])} in the '
        f'checkpoint{what} (other frozen_stages, paramwise_cfg or constructor?).'
    )


def _groups(sizes: list[int]) -> str:
    if len(sizes) > 3:
        return f'{sum(sizes)} tensors in {len(sizes)} groups'
    tensors = ' and '.join(map(str, sizes))
    return f'{tensors} tensors in {len(sizes)} group{"s" if len(sizes) > 1 else ""}'


def _state_difference(runner: Runner, state: dict[str, Any]) -> str | None:
    names = {id(p): name for name, p in plain_model(runner.model).named_parameters()}
    for p, of_p in _states(runner, state):
        for key in OF_PARAMETERS_SHAPE:
            shape = _shape(of_p.get(key))
            if shape is not None and shape != tuple(p.shape):
                return (
                    f'optim_wrapper: {names.get(id(p), "a parameter")} of shape {tuple(p.shape)} '
                    f"and the checkpoint's {key} of it of shape {shape} (other frozen_stages, "
                    'paramwise_cfg or constructor?).'
                )
    return None


def _states(runner: Runner, state: dict[str, Any]) -> list[tuple[nn.Parameter, dict[str, Any]]]:
    """Each trained parameter with its state in the checkpoint, empty where it has none."""
    params = [p for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']]
    ids = [number for group in state['param_groups'] for number in group['params']]
    return [(p, state['state'].get(number, {})) for p, number in zip(params, ids, strict=True)]


def without_state(runner: Runner, state: dict[str, Any]) -> list[str]:
    """Find parameters that train and have no state in a checkpoint where others have.

    Args:
        runner (Runner): The runner.
        state (dict[str, Any]): The checkpoint's optimizer, of the same groups.

    Returns:
        list[str]: Their names.
    """
    names = {id(p): name for name, p in plain_model(runner.model).named_parameters()}
    pairs = _states(runner, state)
    if not any(of_p for _, of_p in pairs):
        return []
    return [names.get(id(p), '?') for p, of_p in pairs if p.requires_grad and not of_p]


def _scheduler_difference(runner: Runner, checkpoint: dict[str, Any]) -> str | None:
    own, saved = runner.param_schedulers, checkpoint.get('param_schedulers')
    if not isinstance(own, list) or not isinstance(saved, list):
        return None
    if len(own) != len(saved):
        return f'param_scheduler: {len(own)} in the config and {len(saved)} in the checkpoint.'
    for scheduler, state in zip(own, saved, strict=True):
        keys = set(scheduler.state_dict()) ^ set(state)
        if keys:
            return (
                f"param_scheduler: the checkpoint's is not a {type(scheduler).__name__} (it "
                f'differs in {", ".join(sorted(map(str, keys)))}).'
            )
    return None


def _configured_type(cfg: Any) -> str:
    """Name of the optimizer in the text of a config, which is read and not run."""
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
    """A keyword of ``dict(...)`` or a key of ``{...}``."""
    if isinstance(node, ast.Call):
        return next((word.value for word in node.keywords if word.arg == name), None)
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return next((value for key, value in pairs if getattr(key, 'value', '') == name), None)
    return None
