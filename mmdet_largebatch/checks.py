"""Checks of settings.

Every ``check_*`` takes the name of a setting and its value. It refuses a wrong value by a
``SettingError`` of one line: ``Invalid lr=-1.0. Must be >= 0.0.`` NaN is always refused. A command
line hands over strings and bools as easily as numbers, so types are checked too.
"""

from __future__ import annotations

import ctypes
import math
from numbers import Integral, Real
from typing import Any

from .errors import SettingError


def as_float32(value: float) -> float:
    """Round a number to float32, the precision in which NVIDIA's kernels receive their scalars.

    Args:
        value (float): Any real number; beyond float32's range it becomes an infinity.

    Returns:
        float: The nearest float32, held in a Python float.
    """
    return ctypes.c_float(value).value


def invalid(name: str, value: Any, requirement: str) -> SettingError:
    """Word the error for a setting.

    Args:
        name (str): The setting.
        value (Any): Its value.
        requirement (str): What it must be.

    Returns:
        SettingError: For the caller to raise.
    """
    return SettingError(f'Invalid {name}={value!r}. Must be {requirement}.')


def check(ok: bool, name: str, value: Any, requirement: str) -> None:
    """Refuse a setting unless `ok`.

    Args:
        ok (bool): True if the setting is right.
        name (str): The setting.
        value (Any): Its value.
        requirement (str): What it must be.

    Raises:
        SettingError: If not `ok`.
    """
    if not ok:
        raise invalid(name, value, requirement)


def is_number(value: Any, kind: type[Any] = Real) -> bool:
    """Return True for a finite number of `kind`; a bool or a string is none."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


# Optimizers. A value is judged as the float32 that it is rounded to before use.


def check_non_negative(name: str, value: Any) -> None:
    """Refuse all but a finite number of at least 0."""
    _check_number(name, value)
    check(value >= 0.0, name, value, '>= 0.0')
    check(as_float32(value) < math.inf, name, value, 'finite as a float32')


def check_positive_or_none(name: str, value: Any) -> None:
    """Refuse all but None and a number above 0, which may be infinite."""
    if value is not None:
        _check_number(name, value)
        check(as_float32(value) > 0.0, name, value, '> 0.0, or None to switch it off')


def check_fraction(name: str, value: Any) -> None:
    """Refuse all but a number in [0, 1)."""
    _check_number(name, value)
    check(0.0 <= as_float32(value) < 1.0, name, value, 'in [0.0, 1.0)')


def check_betas(name: str, value: Any) -> None:
    """Refuse all but a pair of numbers in [0, 1)."""
    ok = _is_pair(value) and all(0.0 <= as_float32(beta) < 1.0 for beta in value)
    check(ok, name, value, 'two numbers in [0.0, 1.0)')


def check_interval_or_none(name: str, value: Any) -> None:
    """Refuse all but None and a pair with 0 <= low <= high; high may be infinite."""
    ok = value is None or (
        _is_pair(value) and 0.0 <= value[0] <= value[1] and as_float32(value[0]) < math.inf
    )
    check(ok, name, value, '(low, high) with 0.0 <= low <= high, or None')


def check_flag(name: str, value: Any) -> None:
    """Refuse all but a bool, so that the text 'False' does not count as true."""
    check(isinstance(value, bool), name, value, 'True or False')


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse all but one of a few words."""
    check(value in choices, name, value, 'one of ' + ', '.join(map(repr, choices)))


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_number(name: str, value: Any) -> None:
    check(_is_real(value), name, value, 'a number')


def _is_pair(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_real, value))


# Schedule. `owner` is the class whose setting it is.


def check_milestones(owner: str, milestones: Any, kind: type, unit: str) -> None:
    """Refuse all but a list of increasing numbers of `kind`, each above 0."""
    ok = (
        isinstance(milestones, (list, tuple))
        and all(is_number(m, kind) and m > 0 for m in milestones)
        and all(m < n for m, n in zip(milestones, milestones[1:], strict=False))
    )
    wanted = f'a list of increasing {unit}, each above 0'
    check(ok, f'{owner}.milestones', milestones, wanted)


def check_warmup_iters(owner: str, warmup_iters: Any) -> None:
    """Refuse all but a whole number of updates."""
    ok = is_number(warmup_iters, Integral) and warmup_iters >= 0
    check(ok, f'{owner}.warmup_iters', warmup_iters, 'a whole number of updates, 0 for none')


def check_factors(owner: str, gamma: Any, warmup_ratio: Any) -> None:
    """Refuse a factor of the LR that is no number or out of its range."""
    ok = is_number(gamma) and gamma > 0
    check(ok, f'{owner}.gamma', gamma, 'a finite number above 0, such as 0.1')
    ok = is_number(warmup_ratio) and 0 < warmup_ratio <= 1
    wanted = 'a number above 0 (at 0 the first update learns nothing) and at most 1'
    check(ok, f'{owner}.warmup_ratio', warmup_ratio, wanted)


def check_warmup(owner: str, warmup_iters: Any, warmup_epochs: Any) -> None:
    """Refuse a warmup given in both units, or as no number; None means not given."""
    if warmup_iters is not None and warmup_epochs is not None:
        raise SettingError(
            f'Invalid {owner}.warmup_iters={warmup_iters!r} with warmup_epochs={warmup_epochs!r}. '
            'Must be one of them: set default_hooks.lr.warmup_iters=None too to keep the epochs, '
            'or default_hooks.lr.warmup_epochs=None to keep the updates.'
        )
    if warmup_iters is not None:
        check_warmup_iters(owner, warmup_iters)
    if warmup_epochs is not None:
        ok = is_number(warmup_epochs) and warmup_epochs >= 0
        check(ok, f'{owner}.warmup_epochs', warmup_epochs, 'a number of epochs, 0 for none')


def check_scaling(owner: str, scale_rule: Any, base_batch_size: Any, rules: list[str]) -> None:
    """Refuse an unknown rule, a batch that is no number of images, or one without the other."""
    rule, batch = f'{owner}.scale_rule', f'{owner}.base_batch_size'
    wanted = f'one of {", ".join(map(repr, rules))}'
    check(scale_rule is None or scale_rule in rules, rule, scale_rule, wanted)
    if base_batch_size is not None:
        ok = is_number(base_batch_size, Integral) and base_batch_size > 0
        check(ok, batch, base_batch_size, 'a whole number of images above 0')
        wanted += f', with base_batch_size={base_batch_size}'
        check(scale_rule is not None, rule, scale_rule, wanted)
    wanted = f'the global batch that the LR is meant for, with scale_rule={scale_rule!r}'
    check(scale_rule is None or base_batch_size is not None, batch, base_batch_size, wanted)


def check_base_lrs(lrs: list[float]) -> None:
    """Refuse LRs that are no numbers, below 0, or all 0 (``lr_mult=0`` holds one group still)."""
    name, wanted = 'optim_wrapper.optimizer.lr', 'a finite number above 0'
    for lr in lrs:
        check(is_number(lr) and lr >= 0, name, lr, wanted)
    check(any(lrs), name, lrs[0], wanted)
