"""Checks of the optimizers' arguments.

Every ``check_*`` takes the name of a setting and its value, and refuses a wrong one by a
``SettingError`` of one line: ``Invalid lr=-1.0. Must be >= 0.0.`` NaN is always refused. A value is
judged as the float32 that it is rounded to before use.
"""

from __future__ import annotations

import ctypes
import math
from numbers import Real
from typing import Any

from ..errors import SettingError


def as_float32(value: float) -> float:
    """Round a number to float32, the precision in which NVIDIA's kernels receive their scalars.

    Args:
        value (float): Any real number; beyond float32's range it becomes an infinity.

    Returns:
        float: The nearest float32, held in a Python float.
    """
    return ctypes.c_float(value).value


def invalid(name: str, value: Any, requirement: str) -> SettingError:
    """Word the error for a bad argument.

    Args:
        name (str): The setting.
        value (Any): What it was given.
        requirement (str): What it must be.

    Returns:
        SettingError: For the caller to raise.
    """
    return SettingError(f'Invalid {name}={value!r}. Must be {requirement}.')


def check_non_negative(name: str, value: Any) -> None:
    """Refuse all but a finite number of at least 0."""
    _check_number(name, value)
    if not value >= 0.0:
        raise invalid(name, value, '>= 0.0')
    if math.isinf(as_float32(value)):
        raise invalid(name, value, 'finite as a float32')


def check_positive_or_none(name: str, value: Any) -> None:
    """Refuse all but None and a number above 0, which may be infinite."""
    if value is None:
        return
    _check_number(name, value)
    if not as_float32(value) > 0.0:
        raise invalid(name, value, '> 0.0, or None to switch it off')


def check_fraction(name: str, value: Any) -> None:
    """Refuse all but a number in [0, 1)."""
    _check_number(name, value)
    if not 0.0 <= as_float32(value) < 1.0:
        raise invalid(name, value, 'in [0.0, 1.0)')


def check_betas(name: str, value: Any) -> None:
    """Refuse all but a pair of numbers in [0, 1)."""
    pair = _as_pair(value)
    if pair is None or not all(0.0 <= as_float32(beta) < 1.0 for beta in pair):
        raise invalid(name, value, 'two numbers in [0.0, 1.0)')


def check_interval_or_none(name: str, value: Any) -> None:
    """Refuse all but None and a pair with 0 <= low <= high; high may be infinite."""
    if value is None:
        return
    pair = _as_pair(value)
    if pair is None or not (0.0 <= pair[0] <= pair[1] and as_float32(pair[0]) < math.inf):
        raise invalid(name, value, '(low, high) with 0.0 <= low <= high, or None')


def check_flag(name: str, value: Any) -> None:
    """Refuse all but a bool, so that the text 'False' does not count as true."""
    if not isinstance(value, bool):
        raise invalid(name, value, 'True or False')


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse all but one of a few words."""
    if value not in choices:
        raise invalid(name, value, 'one of ' + ', '.join(map(repr, choices)))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_number(name: str, value: Any) -> None:
    if not _is_number(value):
        raise invalid(name, value, 'a number')


def _as_pair(value: Any) -> tuple[float, float] | None:
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value)):
        return tuple(value)
    return None
