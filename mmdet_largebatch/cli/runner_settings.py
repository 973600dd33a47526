"""Refuse what MMEngine's runner would pass on to a function that does not take it."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mmdet.registry import HOOKS
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.hooks import CheckpointHook
from mmengine.runner import Priority, Runner
from mmengine.utils.dl_utils import set_multi_processing
from torch.distributed import init_process_group
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.data import DataLoader

from ..checks import check, is_number
from ..preflight.sources import resolve
from ..utils.config_parts import named_hooks
from ..utils.local_rank import is_first_of_machine
from ..utils.type_names import is_stock, type_name
from .config_fixes import LOADERS

# What MMEngine takes out of a loader's settings before it builds the loader.
OF_MMENGINE = frozenset({'num_batch_per_epoch', 'disable_subprocess_warning'})
OF_SLURM = frozenset({'port'})
OF_THE_REGISTRY = frozenset({'type', '_scope_', 'priority'})
PARAMWISE = {
    'custom_keys',
    'bias_lr_mult',
    'bias_decay_mult',
    'norm_decay_mult',
    'dwconv_decay_mult',
    'flat_decay_mult',
    'flat_options',
    'dcn_offset_lr_mult',
    'bypass_duplicate',
}
CONSTRUCTORS = ('', 'DefaultOptimWrapperConstructor', 'MergedGroupsConstructor')


def check_runner_settings(cfg: Config) -> None:
    """Refuse settings that MMEngine meets as an error of a function, some after hours.

    A misspelt name in ``optim_wrapper.paramwise_cfg`` is a warning, because MMEngine ignores it.

    Args:
        cfg (Config): The config.

    Raises:
        SettingError: If a setting is misspelt, or has a value that the function does not take.
    """
    seed, level = _part(cfg, 'randomness').get('seed'), cfg.get('log_level', 'INFO')
    ok = seed is None or (is_number(seed, int) and 0 <= seed < 2**32)
    check(ok, 'randomness.seed', seed, 'an integer from 0 to 2**32 - 1, or None for a random one')
    ok = isinstance(level, int) or isinstance(logging.getLevelName(level), int)
    check(ok, 'log_level', level, "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'")
    _check_names('randomness', _part(cfg, 'randomness'), [Runner.set_randomness])
    env = _part(cfg, 'env_cfg')
    _check_names('env_cfg.mp_cfg', _part(env, 'mp_cfg'), [set_multi_processing])
    takers: list[Callable[..., Any]] = [init_dist, init_process_group]
    _check_names('env_cfg.dist_cfg', _part(env, 'dist_cfg'), takers, OF_SLURM)
    for name in LOADERS:
        _check_loader(name, _part(cfg, name))
    for name, hook in named_hooks(cfg):
        _check_priority(name, hook)
        _check_saving(name, hook)
    for name, wrapper in _optim_wrappers(cfg):
        _check_clipping(f'{name}.clip_grad', wrapper.get('clip_grad'))
        _note_factors(f'{name}.paramwise_cfg', wrapper)


def _part(cfg: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of a config, empty where it is no dict."""
    part = cfg.get(name)
    return part if isinstance(part, Mapping) else {}


def _check_names(
    name: str,
    part: Mapping[str, Any],
    takers: list[Callable[..., Any]],
    more: frozenset[str] = frozenset(),
) -> None:
    """Refuse a key that is no argument of the functions that take it."""
    known = more.union(*(inspect.signature(taker).parameters for taker in takers))
    for key in set(part) - known:
        kind = takers[-1].__name__
        check(False, f'{name}.{key}', part[key], f'left out: {kind} does not take it')


def _check_loader(name: str, loader: Mapping[str, Any]) -> None:
    _check_names(name, loader, [DataLoader], OF_MMENGINE)
    workers = loader.get('num_workers', 0)
    ok = is_number(workers, int) and workers >= 0
    check(ok, f'{name}.num_workers', workers, 'an integer >= 0')


def _check_priority(name: str, hook: Mapping[str, Any]) -> None:
    priority = hook.get('priority')
    if isinstance(priority, str):
        names = [level.name for level in Priority]
        check(priority.upper() in names, f'{name}.priority', priority, f'one of {", ".join(names)}')
    elif priority is not None and not isinstance(priority, Priority):
        ok = is_number(priority, int) and 0 <= priority <= 100
        check(ok, f'{name}.priority', priority, 'an integer from 0 to 100, or a name')


def _check_saving(name: str, hook: Mapping[str, Any]) -> None:
    """Check a checkpoint hook, which meets a wrong setting at its first save."""
    kind = resolve(HOOKS, hook)
    if kind is None or not issubclass(kind, CheckpointHook) or not is_stock(kind):
        return
    takers = [*kind.__mro__[:-1], Runner.save_checkpoint]
    _check_names(name, hook, takers, OF_THE_REGISTRY)
    for key in ('interval', 'max_keep_ckpts'):
        value = hook.get(key, 1)
        check(is_number(value, int), f'{name}.{key}', value, 'an integer; -1 for no limit')


def _optim_wrappers(cfg: Config) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the optimizer wrapper of a config, or each of several."""
    wrapper = _part(cfg, 'optim_wrapper')
    yield 'optim_wrapper', wrapper
    for key, inner in wrapper.items():
        if isinstance(inner, Mapping) and 'optimizer' in inner:
            yield f'optim_wrapper.{key}', inner


def _check_clipping(name: str, clipping: Any) -> None:
    """Check the clipping of gradients, whose settings are read at the first update."""
    if isinstance(clipping, Mapping):
        clip = clip_grad_value_ if clipping.get('type') == 'value' else clip_grad_norm_
        _check_names(name, clipping, [clip], frozenset({'type'}))


def _note_factors(name: str, wrapper: Mapping[str, Any]) -> None:
    """Name factors of LR and weight decay that MMEngine ignores."""
    if type_name(wrapper.get('constructor')) in CONSTRUCTORS and is_first_of_machine():
        for key in sorted(set(_part(wrapper, 'paramwise_cfg')) - PARAMWISE):
            print(f'warning: {name}.{key} is ignored: no such factor.', file=sys.stderr)
