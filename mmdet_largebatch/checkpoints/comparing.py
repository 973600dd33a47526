"""Compare a checkpoint with a run, before anything is loaded."""

import re
from typing import Any

from mmengine.runner import CheckpointLoader, Runner

from ..compat import load_from
from ..errors import SettingError
from ..utils.runner import has_one_optimizer, plain_model
from ..utils.type_names import type_name
from .optimizer_settings import OPTIMIZER, saved_states, saved_type

INSTEAD = 'to begin from its weights, give it as load_from without --resume'
CONSTRUCTOR = '(other frozen_stages, paramwise_cfg or constructor?)'
# Tensors of an optimizer's state that have the shape of their parameter.
OF_PARAMETERS_SHAPE = ('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'momentum_buffer', 'square_avg')


def refusal(runner: Runner, path: str) -> str | None:
    """Return the reason, in one line, why a built run cannot resume from a checkpoint; or None."""
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='meta')
    except SettingError as error:
        return str(error)
    except Exception:
        # MMEngine meets the same error, on every rank.
        return None
    progress = checkpoint.get('meta') or {}
    if 'state_dict' not in checkpoint or not {'epoch', 'iter'} <= set(progress):
        return (
            f'load_from={path}: it holds weights alone, without the progress of a training. Must '
            f'be a checkpoint of a training to resume; {INSTEAD}.'
        )
    difference = _model_difference(runner, checkpoint)
    if difference is None and has_one_optimizer(runner.optim_wrapper):
        difference = _optimizer_difference(runner, checkpoint)
    return difference and f'{difference} Must be the same to resume from {path}; {INSTEAD}.'


def weights_taken(runner: Runner, checkpoint: dict[str, Any]) -> str:
    """Return a log line on the weights that a training takes without a resume."""
    weights = checkpoint.get('state_dict', checkpoint)
    shapes, missing, unexpected = _compare_weights(runner, weights)
    taken = len(weights) - len(shapes) - len(unexpected)
    parts = [f'{taken} of {len(weights)} tensors are loaded']
    for names, words in (
        (list(shapes), 'of another shape'),
        (missing, 'of the model not in the file'),
        (unexpected, 'not in the model'),
    ):
        if names:
            parts.append(f'{len(names)} {words} (such as {names[0]})')
    return f'load_from={load_from(runner)}: {", ".join(parts)}.'


def left_out(runner: Runner, weights: dict[str, Any]) -> list[str]:
    """Return a line on buffers that the model lacks, as of another version of a library."""
    *_, unexpected = _compare_weights(runner, weights)
    return [f'left out, as not in the model: {_and_more(unexpected)}'] if unexpected else []


def _compare_weights(
    runner: Runner, weights: dict[str, Any]
) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the weights of another shape with both shapes, the missing and the unexpected."""
    own = plain_model(runner.model).state_dict()
    # DDP adds a prefix.
    saved = {re.sub(r'^module\.', '', name): value for name, value in weights.items()}
    shapes = {
        name: f'{_shape(own[name])} in the config and {_shape(saved[name])} in the checkpoint'
        for name in own
        if name in saved and _shape(own[name]) != _shape(saved[name])
    }
    # As in MMEngine, batch norm's counter may be missing.
    missing = [n for n in own if n not in saved and 'num_batches_tracked' not in n]
    return shapes, missing, [name for name in saved if name not in own]


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if hasattr(value, 'shape') else None


def _model_difference(runner: Runner, checkpoint: dict[str, Any]) -> str | None:
    shapes, missing, unexpected = _compare_weights(runner, checkpoint['state_dict'])
    if shapes:
        names = list(shapes)
        return (
            f'model: {_and_more(names)} of shape {shapes[names[0]]} (another number of classes or '
            'of channels?).'
        )
    if missing:
        return f'model: {_and_more(missing)} not in the checkpoint.'
    if unexpected and not _has_as_many_parameters(runner, checkpoint):
        return f'model: {_and_more(unexpected)} not in the model.'
    return None


def _has_as_many_parameters(runner: Runner, checkpoint: dict[str, Any]) -> bool:
    """Return True if the optimizers of run and checkpoint have the same number of parameters."""
    state = checkpoint.get('optimizer')
    if not state or not has_one_optimizer(runner.optim_wrapper):
        return False
    both = runner.optim_wrapper.optimizer.param_groups, state['param_groups']
    own, saved = (sum(len(group['params']) for group in groups) for groups in both)
    return own == saved


def _optimizer_difference(runner: Runner, checkpoint: dict[str, Any]) -> str | None:
    optimizer, state = runner.optim_wrapper.optimizer, checkpoint.get('optimizer')
    if not state:
        return None
    own, saved = type(optimizer).__name__, saved_type(checkpoint['meta'])
    if OPTIMIZER not in checkpoint['meta']:
        own = type_name(runner.cfg.get('optim_wrapper', {}).get('optimizer')) or own
    if saved and saved != own:
        return f"optim_wrapper.optimizer.type={own}: the checkpoint's optimizer is {saved}."
    both = optimizer.param_groups, state['param_groups']
    sizes = [[len(group['params']) for group in groups] for groups in both]
    names = [[list(group.get('param_names', ())) for group in groups] for groups in both]
    named = all(all(map(len, of)) for of in names)
    if sizes[0] != sizes[1] or (named and names[0] != names[1]):
        flat = [[name for group in of for name in group] for of in names]
        odd = [name for name in flat[0] + flat[1] if (name in flat[0]) != (name in flat[1])]
        what = f' ({_and_more(odd)} in one alone)' if named and odd else ''
        return (
            f'optim_wrapper: {_describe(sizes[0])} by the config and {_describe(sizes[1])} in the '
            f'checkpoint{what} {CONSTRUCTOR}.'
        )
    for name, p, saved_state in saved_states(runner, state):
        for key in OF_PARAMETERS_SHAPE:
            shape = _shape(saved_state.get(key))
            if shape is not None and shape != tuple(p.shape):
                return (
                    f'optim_wrapper: {name} of shape {tuple(p.shape)} and {key} of shape {shape} '
                    f'in the checkpoint {CONSTRUCTOR}.'
                )
    return None


def _and_more(names: list[str]) -> str:
    return names[0] + (f' and {len(names) - 1} more' if len(names) > 1 else '')


def _describe(sizes: list[int]) -> str:
    """Describe parameter groups by their numbers of tensors."""
    if len(sizes) > 3:
        return f'{sum(sizes)} tensors in {len(sizes)} groups'
    tensors = ' and '.join(map(str, sizes))
    return f'{tensors} tensors in {len(sizes)} group{"s" if len(sizes) > 1 else ""}'
