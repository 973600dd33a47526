"""Checks of the schedule's settings, shared by the scheduler and its hook.

A wrong one is answered by a ``SettingError`` of one line: who asks, the setting, its value, and
what it must be. A command line hands over strings and bools as easily as numbers, so types are
checked too.
"""

import math
from numbers import Integral, Real
from typing import Any

from ..errors import SettingError


def require(ok: bool, owner: str, setting: str, value: Any, wanted: str) -> None:
    """Refuse a setting.

    Args:
        ok (bool): Whether the setting is right.
        owner (str): The class that asks.
        setting (str): The setting's name.
        value (Any): Its value.
        wanted (str): What it must be.

    Raises:
        SettingError: If not ``ok``.
    """
    if not ok:
        raise SettingError(f'{owner}: {setting}={value!r} must be {wanted}')


def is_number(value: Any, kind: type = Real) -> bool:
    """Whether a value is a finite number (of ``kind``); a bool or a string is none."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def check_milestones(owner: str, milestones: Any, kind: type, unit: str) -> None:
    """Refuse what is not a list of increasing numbers (of ``kind``) above 0."""
    ok = (
        isinstance(milestones, (list, tuple))
        and all(is_number(m, kind) and m > 0 for m in milestones)
        and all(m < n for m, n in zip(milestones, milestones[1:], strict=False))
    )
    require(ok, owner, 'milestones', milestones, f'a list of increasing {unit}, each above 0')


def check_warmup_iters(owner: str, warmup_iters: Any) -> None:
    """Refuse what is not a whole number of updates."""
    ok = is_number(warmup_iters, Integral) and warmup_iters >= 0
    require(ok, owner, 'warmup_iters', warmup_iters, 'a whole number of updates, 0 for none')


def check_factors(owner: str, gamma: Any, warmup_ratio: Any) -> None:
    """Refuse a factor of the LR that is no number, or not in its range."""
    ok = is_number(gamma) and gamma > 0
    require(ok, owner, 'gamma', gamma, 'a finite number above 0, such as 0.1')
    ok = is_number(warmup_ratio) and 0 < warmup_ratio <= 1
    wanted = 'a number above 0 (at 0 the first update learns nothing) and at most 1'
    require(ok, owner, 'warmup_ratio', warmup_ratio, wanted)


def check_warmup(owner: str, warmup_iters: Any, warmup_epochs: Any) -> None:
    """Refuse a length of the warmup given in both units, or as no number; None is not given."""
    if warmup_iters is not None and warmup_epochs is not None:
        raise SettingError(
            f'{owner}: warmup_iters={warmup_iters!r} and warmup_epochs={warmup_epochs!r} are both '
            'given and must be one: to keep the epochs say also default_hooks.lr.warmup_iters=None'
            ', to keep the updates default_hooks.lr.warmup_epochs=None'
        )
    if warmup_iters is not None:
        check_warmup_iters(owner, warmup_iters)
    if warmup_epochs is not None:
        ok = is_number(warmup_epochs) and warmup_epochs >= 0
        require(ok, owner, 'warmup_epochs', warmup_epochs, 'a number of epochs, 0 for none')


def check_scaling(owner: str, scale_rule: Any, base_batch_size: Any, rules: list) -> None:
    """Refuse an unknown rule, a batch that is no number of images, or one without the other."""
    wanted = f'one of {", ".join(map(repr, rules))}'
    require(scale_rule is None or scale_rule in rules, owner, 'scale_rule', scale_rule, wanted)
    if base_batch_size is not None:
        ok = is_number(base_batch_size, Integral) and base_batch_size > 0
        require(ok, owner, 'base_batch_size', base_batch_size, 'a whole number of images above 0')
        wanted += f', with base_batch_size={base_batch_size}'
        require(scale_rule is not None, owner, 'scale_rule', scale_rule, wanted)
    wanted = f'the global batch that the LR is meant for, with scale_rule={scale_rule!r}'
    ok = scale_rule is None or base_batch_size is not None
    require(ok, owner, 'base_batch_size', base_batch_size, wanted)


def check_base_lrs(owner: str, lrs: list) -> None:
    """Refuse LRs that are no numbers, below 0, or all 0 (``lr_mult=0`` holds one group still)."""
    wanted = 'a finite number above 0 (optim_wrapper.optimizer.lr)'
    for lr in lrs:
        require(is_number(lr) and lr >= 0, owner, 'lr', lr, wanted)
    require(any(lrs), owner, 'lr', lrs[0], wanted)
