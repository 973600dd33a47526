"""Carry the optimizer: the LR by its rule, or another optimizer with its own LR."""

from dataclasses import dataclass
from typing import Any

from mmdet.models.detectors import TwoStageDetector
from mmdet.registry import MODELS
from mmengine.config import Config

from ..checks import check, check_choice, invalid, is_number
from ..errors import SettingError
from ..planning.advice import PUBLISHED_SGD
from ..results.settings import lr_hook
from ..schedulers.scaling import SCALE_EXPONENTS, SCALE_RULES
from ..utils.type_names import type_name
from .base_batch import Batches
from .change import Change, Path, lr_hook_path, value_at
from .rules import SGD_SOURCE, rounded, scaled_lr, two_stage_sgd_lr

OPTIMIZER = ('optim_wrapper', 'optimizer')
PARAMWISE = ('optim_wrapper', 'paramwise_cfg')
TUNE = 'tune it with tools/sweep.py'


@dataclass(frozen=True)
class Start:
    """Settings of an optimizer for a config that was written for another one.

    Args:
        lr (float): LR at the global batch ``batch``.
        batch (int): Images of an update.
        source (str): Source of the LR.
        options (dict[str, Any]): The other settings.
        options_source (str): Source of the weight decay.
    """

    lr: float
    batch: int
    source: str
    options: dict[str, Any]
    options_source: str


ZOO, SWIN = "MMDetection's model zoo", 'Mask R-CNN of the Swin paper, arXiv 2103.14030'
ENGINE_ML = 'Training Mask-RCNN 10x Faster with LAMB (Engine ML, 2020)'
STARTS = {
    'SGD': Start(0.02, 16, ZOO, dict(momentum=0.9, weight_decay=1e-4), ZOO),
    'AdamW': Start(1e-4, 16, SWIN, dict(weight_decay=0.05), SWIN),
    'LARS': Start(
        0.3,
        256,
        'derived from SimCLR, arXiv 2002.05709, and NOT validated on a detector',
        dict(momentum=0.9, weight_decay=5e-4),
        ENGINE_ML,
    ),
    'LAMB': Start(
        5e-3,
        2048,
        'derived from ResNet strikes back, arXiv 2110.00476, and NOT validated on a detector',
        dict(weight_decay=1e-4),
        ENGINE_ML,
    ),
}
# One-stage detectors of MMDetection's model zoo, such as RetinaNet, FCOS and ATSS.
ONE_STAGE_SGD_LR = 0.01
# Constructors of MMEngine that MergedGroupsConstructor replaces.
MERGED, STOCK_CONSTRUCTORS = 'MergedGroupsConstructor', ('', 'DefaultOptimWrapperConstructor')
# Options of tensors of at most one dimension: biases and norm parameters.
FLAT_OPTIONS: dict[str, dict[str, Any]] = {
    'LAMB': dict(weight_decay=0.0),
    'LARS': dict(weight_decay=0.0, lars_exclude=True),
}
FLAT_SOURCES = {
    'LAMB': 'LAMB adapts only parameters with weight decay; biases and norm parameters get plain '
    'Adam steps',
    'LARS': 'biases and norm parameters take plain steps, without adaptation and weight decay',
}


def optimizer_of(cfg: Config) -> str:
    """Return the class name of a config's optimizer.

    Args:
        cfg (Config): The config.

    Returns:
        str: The name.

    Raises:
        SettingError: If there are several optimizers, or none, or its LR is no number.
    """
    wrapper: Any = cfg.get('optim_wrapper') or {}
    if wrapper.get('optimizer') is None:
        several = [key for key, part in wrapper.items() if isinstance(part, dict)]
        if not several:
            raise SettingError('optim_wrapper.optimizer is not set. Must be, to carry its LR.')
        raise invalid('optim_wrapper', several, 'a single optimizer under GlobalBatchTrainLoop')
    lr = wrapper.optimizer.get('lr')
    check(is_number(lr) and lr > 0, 'optim_wrapper.optimizer.lr', lr, 'a number above 0')
    return type_name(wrapper.optimizer)


def carry_optimizer(
    cfg: Config, batches: Batches, wanted: str | None, rule: str | None
) -> list[Change]:
    """Scale the LR, or change the optimizer.

    Args:
        cfg (Config): The config.
        batches (Batches): The old and the new global batch.
        wanted (str, optional): Class name of the new optimizer; None keeps the old one.
        rule (str, optional): ``'linear'`` or ``'sqrt'``; None takes the rule of the optimizer.

    Returns:
        list[Change]: The changes.

    Raises:
        SettingError: If the optimizer or the rule is unknown, or there are several optimizers.
    """
    name = optimizer_of(cfg)
    if rule is not None:
        check_choice('lr_rule', rule, tuple(SCALE_EXPONENTS))
    if wanted is not None and wanted != name:
        check_choice('optimizer', wanted, tuple(STARTS))
        return _change_optimizer(cfg, batches, name, wanted, rule)
    optimizer, path = cfg.optim_wrapper.optimizer, (*OPTIMIZER, 'lr')
    lr, hook = optimizer.lr, lr_hook(cfg)
    if hook.get('scale_rule'):
        why = f'WarmupStepLRHook scales it by the {hook["scale_rule"]} rule when a training begins'
        changes = [Change(path, lr, lr, why)]
    elif name not in SCALE_RULES and rule is None:
        changes = [Change(path, lr, lr, f'no rule is known for the LR of {name}: {TUNE}')]
    else:
        new, why = lr_at_batch(cfg, lr, batches.base, batches.new, name, rule)
        changes = [Change(path, lr, new, why)]
    if 'weight_decay' in optimizer:
        decay = optimizer.weight_decay
        why = 'no rule changes it with the batch'
        changes.append(Change((*OPTIMIZER, 'weight_decay'), decay, decay, why))
    return [*changes, *absolute_lrs(cfg, changes[0].new / lr)]


def is_two_stage(cfg: Config) -> bool:
    """Return True for Faster, Mask and Cascade R-CNN and their kin."""
    kind = (cfg.get('model') or {}).get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    return isinstance(kind, type) and issubclass(kind, TwoStageDetector)


def lr_at_batch(
    cfg: Config, lr: float, base: int, new: int, name: str, rule: str | None = None
) -> tuple[float, str]:
    """Scale the LR of an optimizer to another batch.

    Args:
        cfg (Config): The config, of which the detector is looked at.
        lr (float): LR at the global batch ``base``.
        base (int): Images of an update that the LR is meant for.
        new (int): Images of an update.
        name (str): Class name of the optimizer.
        rule (str, optional): ``'linear'`` or ``'sqrt'``; None takes the rule of the optimizer,
            which must have one. Defaults to None.

    Returns:
        tuple[float, str]: The LR, and the reason with its source.
    """
    ratio = f'{new / base:g} x the images'
    if rule is not None:
        return scaled_lr(lr, base, new, rule), f'{rule} rule, as asked for, {ratio}'
    known = SCALE_RULES[name]
    if name == 'SGD' and is_two_stage(cfg):
        batch, _ = PUBLISHED_SGD[-1]
        why = f'linear rule, {ratio}, below linear above batch 128: {SGD_SOURCE}'
        if max(base, new) <= 128:
            why = f'{known.name} rule, {ratio}: {known.source}'
        elif new > batch:
            why += f'; no LR is published above batch {batch}, {TUNE}'
        return two_stage_sgd_lr(lr, base, new), why
    why = f'{known.name} rule, {ratio}: {known.source}'
    if name == 'SGD' and new > 128:
        why += f'; Mask R-CNN is below linear above batch 128, {TUNE}'
    elif name in ('Adam', 'AdamW'):
        why += '; detectors disagree, D-FINE and DEIM scale linearly'
    elif name in ('LAMB', 'LARS'):
        why += f'; {name} on a detector: no published LR, {TUNE}'
    return scaled_lr(lr, base, new, known.name), why


def _change_optimizer(
    cfg: Config, batches: Batches, old: str, name: str, rule: str | None
) -> list[Change]:
    """Put another optimizer in, with an LR of its own."""
    start, two_stage = STARTS[name], is_two_stage(cfg)
    lr = start.lr if name != 'SGD' or two_stage else ONE_STAGE_SGD_LR
    new, why = lr_at_batch(cfg, lr, start.batch, batches.new, name, rule)
    why = f'{lr:g} at batch {start.batch} ({start.source}); {why}'
    if name in ('SGD', 'AdamW'):
        why += f'; {name} is not the optimizer that this config was tuned with, {TUNE}'
    before = cfg.optim_wrapper.optimizer
    changes = [
        Change((*OPTIMIZER, '_delete_'), None, True, f'settings of {old} are not those of {name}'),
        Change((*OPTIMIZER, 'type'), old, name, 'as asked for'),
        Change((*OPTIMIZER, 'lr'), None, new, why, f'{before.lr!r}'),
    ]
    for option, value in start.options.items():
        # Written even if it is the same: all settings of the old optimizer are deleted.
        was = f'{before[option]!r}' if option in before else ''
        changes.append(Change((*OPTIMIZER, option), None, value, start.options_source, was))
    hook = lr_hook(cfg)
    for option in ('scale_rule', 'base_batch_size') if hook.get('scale_rule') else ():
        path, why = lr_hook_path(cfg), f'the LR above is the LR of batch {batches.new}'
        changes.append(Change((*path, option), hook.get(option), None, why))
    if name == 'LAMB' and cfg.optim_wrapper.get('clip_grad') is not None:
        why = 'LAMB clips the gradient norm at 1.0 itself, as Apex does'
        clip = cfg.optim_wrapper.clip_grad
        changes.append(Change(('optim_wrapper', 'clip_grad'), clip, None, why))
    return [*changes, *_flat_options(cfg, name), *absolute_lrs(cfg, None)]


def _flat_options(cfg: Config, name: str) -> list[Change]:
    """Take biases and norm parameters out of the adaptation, by their one dimension."""
    path: Path = (*PARAMWISE, 'flat_options')
    before = value_at(cfg, path) or {}
    kept = {option: value for option, value in before.items() if option == 'weight_decay'}
    options = FLAT_OPTIONS.get(name, kept)
    constructor = cfg.optim_wrapper.get('constructor')
    if options and type_name(constructor) not in (*STOCK_CONSTRUCTORS, MERGED):
        wanted = ', '.join(f'{option}={value}' for option, value in options.items())
        why = f'it ignores paramwise_cfg.flat_options; biases and norm parameters need {wanted}'
        return [Change(('optim_wrapper', 'constructor'), constructor, constructor, why)]
    changes = []
    if before:
        why = f'options of {type_name(cfg.optim_wrapper.optimizer)} are not those of {name}'
        changes.append(Change((*path, '_delete_'), None, True, why))
    for option, value in options.items():
        was = f'{before[option]!r}' if option in before else ''
        why = FLAT_SOURCES.get(name, 'unchanged')
        changes.append(Change((*path, option), None, value, why, was))
    return changes


def absolute_lrs(cfg: Config, ratio: float | None) -> list[Change]:
    """Carry the LRs of ``custom_keys`` and ``flat_options``.

    Args:
        cfg (Config): The config.
        ratio (float, optional): New LR / old LR of the optimizer; None for another optimizer.

    Returns:
        list[Change]: The changes.
    """
    path: Path = (*PARAMWISE, 'custom_keys')
    keys = value_at(cfg, path) or {}
    old = {key: dict(lr=of['lr']) for key, of in keys.items() if is_number(of.get('lr'))}
    if ratio is None:
        why = 'LRs of the old optimizer, which no rule carries: set them or remove them'
        return [Change(path, old, old, why)] if old else []
    changes, why = [], 'an LR, times the factor of optim_wrapper.optimizer.lr'
    if old and ratio != 1:
        # A key may have dots: it is no part of the path.
        new = {key: dict(lr=rounded(of['lr'] * ratio)) for key, of in old.items()}
        changes.append(Change(path, old, new, why))
    path = (*PARAMWISE, 'flat_options', 'lr')
    lr = value_at(cfg, path)
    if is_number(lr) and ratio != 1:
        changes.append(Change(path, lr, rounded(lr * ratio), why))
    return changes
