"""Every private name of MMEngine that this package uses, each with its reason.

A release of MMEngine that renames one of them breaks this file alone.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import BaseOptimWrapper, _ParamScheduler
from mmengine.registry import Registry
from mmengine.runner import BaseLoop, CheckpointLoader, Runner
from mmengine.runner.runner import _SlicedDataset
from mmengine.utils import ManagerMixin
from torch.utils.data import DataLoader

__all__ = ['LazyAttr', 'LazyObject', 'ParamScheduler', 'SlicedDataset']

# The base class of all schedulers. MMEngine exports it under this name alone.
ParamScheduler = _ParamScheduler
# What MMEngine itself takes for `num_batch_per_epoch`.
SlicedDataset = _SlicedDataset


def train_loop(runner: Runner) -> BaseLoop | dict | None:
    """Return the train loop or its config; ``runner.train_loop`` would build it."""
    return runner._train_loop


def has_loaded(runner: Runner) -> bool:
    """Return True if the runner has loaded a checkpoint; there is no public flag."""
    return runner._has_loaded


def resumes(runner: Runner) -> bool:
    """Return True if the run resumes; there is no public flag."""
    return runner._resume


def set_resume(runner: Runner, resume: bool) -> None:
    """Set whether a run resumes, once the newest checkpoint is known; there is no setter."""
    runner._resume = resume


def load_from(runner: Runner) -> str | None:
    """Return the checkpoint that the run loads; there is no public attribute."""
    return runner._load_from


def set_load_from(runner: Runner, path: str | None) -> None:
    """Choose the checkpoint that the run loads; there is no setter."""
    runner._load_from = path


def randomness(runner: Runner) -> dict[str, Any]:
    """Return the config's ``randomness``: ``runner.seed`` may come from a checkpoint."""
    return runner._randomness_cfg


def accumulative_counts(optim_wrapper: BaseOptimWrapper) -> int:
    """Return ``accumulative_counts`` of an optimizer wrapper, which has no public attribute."""
    return getattr(optim_wrapper, '_accumulative_counts', 1)


def resumed_keys(message_hub: MessageHub) -> dict[str, bool]:
    """Return which keys of a message hub a checkpoint keeps; there is no public list."""
    return message_hub._resumed_keys


def switched(hook: Hook) -> bool | None:
    """Return True if mmdet's mode or pipeline switch has happened; None for other hooks."""
    return getattr(hook, '_has_switched', None)


def undo_switch(hook: Hook) -> None:
    """Allow a hook to switch again; mmdet's hooks switch once in a process."""
    hook._has_switched = False


def stop_workers(dataloader: DataLoader) -> None:
    """End persistent workers of PyTorch, which hold copies of the dataset."""
    dataloader._iterator = None


def instances(kind: type[ManagerMixin]) -> dict[str, Any]:
    """Return the instances of a class that MMEngine keeps by name; none can be removed publicly."""
    return kind._instance_dict


def checkpoint_loaders() -> dict[str, Callable]:
    """Return MMEngine's loaders by the prefix of the address; there is no public list."""
    return dict(CheckpointLoader._schemes)


def lazy_dict(cfg: Config) -> dict[str, Any]:
    """Return a config with its classes as imports; ``pretty_text`` has them as strings."""
    return cfg._to_lazy_dict()


def lay_out_configs_once() -> None:
    """Keep the laid-out text of the newest config, for ``Config.pretty_text``.

    A run asks for the text four times as it starts, and again at each checkpoint. Each layout by
    yapf takes 0.2 to 0.4 s. MMEngine has no option that leaves it out. yapf is imported here, as
    no other tool needs it.
    """
    from yapf.yapflib import yapf_api

    lay_out = yapf_api.FormatCode
    if hasattr(lay_out, '__wrapped__'):
        return
    newest: dict[str, tuple[str, bool]] = {}

    @wraps(lay_out)
    def once(text: str, *args: Any, **kwargs: Any) -> tuple[str, bool]:
        key = repr((text, args, kwargs))
        if key not in newest:
            newest.clear()
            newest[key] = lay_out(text, *args, **kwargs)
        return newest[key]

    yapf_api.FormatCode = once


def is_pure_python(path: str) -> bool:
    """Return True for a config that imports its bases (``read_base``); no public test exists."""
    return Config._is_lazy_import(path)


def config_path(name: str) -> str:
    """Return the file of ``PACKAGE::FOLDER/FILE.py``; ``get_config`` would install the package."""
    return Config._get_cfg_path(name, '')[0]


def locations(registry: Registry) -> list[str]:
    """Return the modules that a registry imports at its first use; there is no public list."""
    return registry._locations
