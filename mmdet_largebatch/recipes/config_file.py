"""Write a carried recipe as a config file that inherits from the old recipe."""

import textwrap
from collections.abc import Sequence
from typing import Any

from ..utils.type_names import type_name
from .change import Change

WIDTH = 100
# Old values with a longer text are named by their types alone.
LONGEST = 60


def recipe_text(base: str, changes: Sequence[Change], heading: str) -> str:
    """Return the text of a config that inherits from another one and says only what changes.

    Above each line a comment has the old value, the rule and its source.

    Args:
        base (str): The old recipe, as a path from the new file or as ``mmdet::FOLDER/FILE.py``.
        changes (Sequence[Change]): The changes. Those that stay are listed in comments.
        heading (str): What the file is, for its first comment.

    Returns:
        str: Python text for MMEngine's ``Config``.
    """
    nested: dict[str, Any] = {}
    in_lists, unchanged = [], []
    for change in changes:
        if change.stays:
            unchanged.append(_comment(f'{subject(change)}: {change.why}.'))
        elif any(isinstance(key, int) for key in change.path):
            in_lists.append(f'{_reason(change)}{_place(change)} = {change.new!r}\n')
        else:
            node = nested
            for name in change.path[:-1]:
                node = node.setdefault(str(name), {})
            node[str(change.path[-1])] = change
    blocks = [f'{_comment(heading)}_base_ = {base!r}\n']
    for key, node in nested.items():
        blocks.append(_assignment(key, node))
    # MMEngine replaces lists as a whole; an item of the inherited list is set in place.
    blocks += in_lists
    if unchanged:
        blocks.append('# Unchanged, or without a rule:\n' + ''.join(unchanged))
    return '\n'.join(blocks)


def subject(change: Change) -> str:
    """Name a setting that stays, with its value if it has one.

    Args:
        change (Change): The setting.

    Returns:
        str: Such as ``optim_wrapper.optimizer.weight_decay=0.0001``.
    """
    return change.key if change.old is None else f'{change.key}={brief(change.old)}'


def brief(value: Any) -> str:
    """Return the text of a value, or the types in it if the text is long.

    Args:
        value (Any): The value of a setting.

    Returns:
        str: One short line.
    """
    text = repr(value)
    if len(text) <= LONGEST:
        return text
    items = value if isinstance(value, (list, tuple)) else [value]
    names = [type_name(item) for item in items if isinstance(item, dict)]
    return ', '.join(filter(None, names)) or textwrap.shorten(text, LONGEST, placeholder=' ...')


def _assignment(key: str, node: Change | dict[str, Any]) -> str:
    if isinstance(node, Change):
        return f'{_reason(node)}{key} = {_value(node.new, 0)}\n'
    return f'{key} = dict(\n{_arguments(node, 1)})\n'


def _arguments(nodes: dict[str, Any], depth: int) -> str:
    indent, text = '    ' * depth, ''
    for key, node in nodes.items():
        if isinstance(node, Change):
            text += f'{_reason(node, depth)}{indent}{key}={_value(node.new, depth)},\n'
        else:
            text += f'{indent}{key}=dict(\n{_arguments(node, depth + 1)}{indent}),\n'
    return text


def _value(value: Any, depth: int) -> str:
    """Return a value as Python, on lines of its own if it is a dict."""
    if not isinstance(value, dict):
        return repr(value)
    inner = '    ' * (depth + 1)
    items = ''.join(f'{inner}{key!r}: {_call(item)},\n' for key, item in value.items())
    return f'{{\n{items}{"    " * depth}}}'


def _call(value: Any) -> str:
    if isinstance(value, dict) and all(str(key).isidentifier() for key in value):
        return f'dict({", ".join(f"{key}={item!r}" for key, item in value.items())})'
    return repr(value)


def _place(change: Change) -> str:
    return '_base_' + ''.join(f'[{x}]' if isinstance(x, int) else f'.{x}' for x in change.path)


def _reason(change: Change, depth: int = 0) -> str:
    """Return the comment above a line."""
    was = change.was or (None if change.old is None else brief(change.old))
    return _comment(f'{"new" if was is None else f"was {was}"}: {change.why}.', depth)


def _comment(text: str, depth: int = 0) -> str:
    indent = '    ' * depth + '# '
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return '\n'.join(lines) + '\n'
