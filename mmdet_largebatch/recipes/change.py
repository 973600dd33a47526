"""A changed setting of a config, with its reason."""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from ..utils.type_names import type_name

Path = tuple[str | int, ...]
LR_HOOK = 'WarmupStepLRHook'


@dataclass(frozen=True)
class Change:
    """A setting that a recipe changes, or leaves for a reason that must be said.

    Args:
        path (tuple[str or int, ...]): Keys and list indices of the setting, such as
            ``('optim_wrapper', 'optimizer', 'lr')``.
        old (Any): The old value, None if it was not set.
        new (Any): The new value; equal to ``old`` if the setting stays.
        why (str): The rule and its source.
        was (str): The old value in words, if it was set elsewhere or is a default. Defaults to ''.
    """

    path: Path
    old: Any
    new: Any
    why: str
    was: str = ''

    @property
    def key(self) -> str:
        """str: The setting as ``--cfg-options`` writes it."""
        return '.'.join(map(str, self.path))

    @property
    def stays(self) -> bool:
        """bool: True if the value does not change."""
        return type(self.old) is type(self.new) and self.old == self.new


def apply_changes(cfg: Config, changes: Iterable[Change]) -> Config:
    """Return a copy of a config with the changes.

    Args:
        cfg (Config): The config; it is not changed.
        changes (Iterable[Change]): The changes.

    Returns:
        Config: The copy.
    """
    changed = deepcopy(cfg)
    made = [change for change in changes if not change.stays]
    for change in made:
        _make_lists(changed, change.path)
    changed.merge_from_dict({change.key: deepcopy(change.new) for change in made})
    return changed


def _make_lists(cfg: Config, path: Path) -> None:
    """Make lists of the tuples on a path, since MMEngine changes no item of a tuple."""
    for depth, key in enumerate(path):
        node = value_at(cfg, path[:depth])
        if isinstance(key, int) and isinstance(node, tuple):
            cfg.merge_from_dict({'.'.join(map(str, path[:depth])): list(node)})


def lr_hook_path(cfg: Config) -> Path:
    """Return the path of :class:`WarmupStepLRHook` in a config that has one."""
    places = [*(('default_hooks', key) for key in cfg.get('default_hooks') or {})]
    places += [('custom_hooks', index) for index in range(len(cfg.get('custom_hooks') or []))]
    return next(place for place in places if type_name(cfg[place[0]][place[1]]) == LR_HOOK)


def value_at(cfg: Any, path: Path) -> Any:
    """Return the value of a setting, None if it is not set.

    Args:
        cfg (Config or dict or list): The config.
        path (tuple[str or int, ...]): Keys and list indices.

    Returns:
        Any: The value.
    """
    for key in path:
        if isinstance(key, int):
            cfg = cfg[key]
        else:
            cfg = cfg.get(key) if cfg is not None else None
    return cfg
