"""Refuse invalid settings.

The error is one line, such as ``Invalid lr=-1.0. Must be >= 0.0.`` Types are checked too, because
a command line may pass a string or a bool for a number. NaN is always refused.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
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
    """Return the error for an invalid setting.

    Args:
        name (str): The setting.
        value (Any): Its value.
        requirement (str): The valid values, to follow "Must be".

    Returns:
        SettingError: The error, for the caller to raise.
    """
    return SettingError(f'Invalid {name}={value!r}. Must be {requirement}.')


def check(ok: bool, name: str, value: Any, requirement: str) -> None:
    """Refuse a setting unless `ok`.

    Args:
        ok (bool): True if the setting is valid.
        name (str): The setting.
        value (Any): Its value.
        requirement (str): The valid values, to follow "Must be".

    Raises:
        SettingError: If not `ok`.
    """
    if not ok:
        raise invalid(name, value, requirement)


def is_number(value: Any, kind: type[Any] = Real) -> bool:
    """Return True for a finite number of `kind`, False for a bool, a string or anything else."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)


def check_positive_integer(name: str, value: Any) -> None:
    """Refuse all but a whole number of at least 1."""
    check(is_number(value, Integral) and value >= 1, name, value, 'an integer >= 1')


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


def listed(names: Sequence[str]) -> str:
    """Return at most three names, and how many more there are.

    Args:
        names (Sequence[str]): The names.

    Returns:
        str: Such as ``a, b, c and 2 more``.
    """
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return f'{", ".join(names[:3])}{more}'
