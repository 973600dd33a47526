"""Read the entries of an annotation file by columns, and refuse wrong ones."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, NoReturn

import numpy as np

from ..errors import SettingError

NUMBERS = {int, float, bool}


class Shown(str):
    """Text of a value for a message, its own ``repr``."""

    def __repr__(self) -> str:
        return str(self)


def shown(value: Any) -> Shown:
    """Return a value for a message, cut to 60 characters."""
    text = repr(value)
    return Shown(text if len(text) <= 60 else f'{text[:57]}...')


def listed(values: Sequence) -> Shown:
    """Return the first ten values for a message."""
    text = ', '.join(shown(value) for value in values[:10])
    return Shown(text if len(values) <= 10 else f'{text} and {len(values) - 10} more')


def repeated(values: Iterable) -> Any:
    """Return the first value that stands twice, None if there is none."""
    return next((value for value, count in Counter(values).items() if count > 1), None)


class Rows:
    """The entries of one list of the file, by columns.

    A column is read at the speed of C. Entries are searched one by one only if one is wrong.

    Args:
        path (str): The file.
        name (str): Name of the list.
        rows (list[dict]): Its entries.
    """

    def __init__(self, path: str, name: str, rows: list[dict]) -> None:
        self.path, self.name, self.rows = path, name, rows
        if set(map(type, rows)) - {dict}:
            self.refuse([type(row) is not dict for row in rows], 'is no object of JSON', '{...}')

    def __len__(self) -> int:
        return len(self.rows)

    def entry(self, index: int) -> str:
        """Name an entry for a message."""
        row = self.rows[index]
        known = isinstance(row, dict) and 'id' in row
        return f'{self.name}[{index}]' + (f' (id {shown(row["id"])})' if known else '')

    def refuse(self, wrong: Sequence[bool] | np.ndarray, what: str, right: str) -> NoReturn:
        """Refuse entries.

        Args:
            wrong (Sequence[bool] or np.ndarray): True for each wrong entry.
            what (str): The defect of the first of them.
            right (str): The requirement.

        Raises:
            SettingError: Always.
        """
        where = np.flatnonzero(wrong)
        more = f' ({len(where)} of {len(self)} like this)' if len(where) > 1 else ''
        raise SettingError(
            f'ann_file={self.path}: {self.entry(where[0])} {what}{more}. Must be {right}.'
        )

    def check(self, key: str, wrong: np.ndarray, right: str, why: str = '') -> None:
        """Refuse entries by their value of a key, if any is wrong.

        Args:
            key (str): The key.
            wrong (np.ndarray): True for each wrong entry.
            right (str): The requirement.
            why (str): The defect, if the value does not say it. Defaults to ''.

        Raises:
            SettingError: If any is wrong.
        """
        if np.any(wrong):
            first = self.rows[int(np.flatnonzero(wrong)[0])].get(key)
            self.refuse(wrong, f'has {key}={shown(first)}{why}', right)

    def values(self, key: str, right: str, wanted: np.ndarray | None = None) -> list:
        """Return the value of a key for each entry.

        Args:
            key (str): The key.
            right (str): The requirement, for the message.
            wanted (np.ndarray, optional): True for entries that must have it. Defaults to all.

        Returns:
            list: The values, None for an entry that may lack the key.

        Raises:
            SettingError: If a wanted entry lacks the key.
        """
        try:
            return list(map(itemgetter(key), self.rows))
        except KeyError:
            wrong = _within(wanted, [key not in row for row in self.rows])
            if wrong.any():
                self.refuse(wrong, f'has no {key!r}', f'there: {right}')
            return [row.get(key) for row in self.rows]

    def numbers(self, key: str, right: str, wanted: np.ndarray | None = None) -> np.ndarray:
        """Return a number of each entry. The arguments are those of :meth:`values`.

        Returns:
            np.ndarray: The numbers, NaN for an entry that may lack one.

        Raises:
            SettingError: If a wanted entry has no number.
        """
        try:
            return np.asarray(array('d', map(itemgetter(key), self.rows)))
        except (KeyError, TypeError, OverflowError):
            values = self.values(key, right, wanted)
        other = [type(value) not in NUMBERS for value in values]
        self.check(key, _within(wanted, other), right)
        values = [np.nan if no else value for value, no in zip(values, other, strict=True)]
        return np.array(values, dtype=float)

    def keys(self, key: str) -> Sequence:
        """Return a hashable value of each entry, such as an id.

        Args:
            key (str): The key.

        Returns:
            Sequence: The values, an ``array.array`` if all are integers.

        Raises:
            SettingError: If an entry lacks the key, or its value cannot be hashed.
        """
        try:
            return array('q', map(itemgetter(key), self.rows))
        except (KeyError, TypeError, OverflowError):
            values = self.values(key, 'a whole number')
        wrong = np.array([isinstance(value, (list, dict)) for value in values])
        self.check(key, wrong, 'a whole number')
        return values

    @cached_property
    def ids(self) -> Sequence:
        """The ids.

        Raises:
            SettingError: If an entry has none or two have the same.
        """
        ids = self.keys('id')
        different = len(np.unique(ids) if isinstance(ids, array) else set(ids))
        if different < len(ids):
            twice = repeated(ids)
            at = [f'{self.name}[{index}]' for index, key in enumerate(ids) if key == twice]
            raise SettingError(
                f'ann_file={self.path}: the id {shown(twice)} stands twice in {self.name}, at '
                f'{at[0]} and {at[1]}; {len(ids) - different} of {len(ids)} repeat an id. Must be '
                'a different id for each.'
            )
        return ids


def _within(wanted: np.ndarray | None, wrong: Sequence[bool]) -> np.ndarray:
    return np.array(wrong, dtype=bool) & (True if wanted is None else wanted)
