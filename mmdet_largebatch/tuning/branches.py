"""List branches of a training, and make their configs."""

import math
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config

from ..checks import check
from ..results.settings import check_by_epoch, optimizer_config
from ..utils.type_names import type_name
from .branch_start import BranchStart
from .training_job import TrainingJob

LOOP = 'GlobalBatchTrainLoop'


@dataclass(frozen=True)
class Branch(TrainingJob):
    """A short training from a state that other branches begin from too.

    Args:
        lr (float): LR, held constant.
        batch (int): Images of an update.
        begin (BranchStart): State that it begins from.
        updates (int): Updates that it makes.
    """

    lr: float
    batch: int
    begin: BranchStart
    updates: int

    @property
    def end(self) -> int:
        """int: Update of the whole training at which it ends."""
        return self.begin.update + self.updates


def make_branch(
    folder: Path, lr: float, batch: int, begin: BranchStart, updates: int, max_epochs: int
) -> Branch:
    """Make a branch, to be trained by ``train.py`` with the config of :func:`branch_config`.

    Args:
        folder (Path): Work folder.
        lr (float): LR.
        batch (int): Images of an update.
        begin (BranchStart): State to begin from.
        updates (int): Updates to make.
        max_epochs (int): Epochs of the recipe.

    Returns:
        Branch: The branch. Its length is given on the command line, so that it can grow.
    """
    branch = Branch(folder, lr, batch, begin, updates, start=begin.path)
    epochs = math.ceil(branch.end / (begin.updates_per_epoch or 1))
    lengths = dict(max_updates=branch.end, max_epochs=max(max_epochs, epochs))
    options = [f'train_cfg.{name}={value}' for name, value in lengths.items()]
    return replace(branch, words=('--cfg-options', *options))


def check_recipe(cfg: Config) -> None:
    """Refuse a recipe whose branches could not be given the same images and draws.

    Args:
        cfg (Config): Recipe.

    Raises:
        SettingError: If its loop is not a :class:`GlobalBatchTrainLoop`, or it has no single LR.
    """
    check_by_epoch(cfg, cfg.work_dir)
    kind = type_name(cfg.train_cfg) or None
    wanted = f"'{LOOP}', whose draws depend on the update alone (see tools/carry_recipe.py)"
    check(kind == LOOP, 'train_cfg.type', kind, wanted)
    lr = optimizer_config(cfg).get('lr')
    check(lr is not None, 'optim_wrapper.optimizer.lr', lr, 'set: branches set it')


def quiet(cfg: Config, folder: Path) -> Config:
    """Return a recipe without evaluations that logs every update, and saves when it ends.

    Args:
        cfg (Config): Recipe; not changed.
        folder (Path): Work folder.

    Returns:
        Config: Copy of the recipe.
    """
    cfg = deepcopy(cfg)
    cfg.work_dir, cfg.resume = str(folder), False
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    hooks = dict(cfg.get('default_hooks') or {})
    hooks.update(
        logger=dict(type='LoggerHook', interval=1),
        checkpoint=dict(type='AtomicCheckpointHook', interval=-1),
        preemption=dict(type='PreemptionHook'),
        divergence=dict(type='DivergenceHook'),
    )
    cfg.default_hooks = {name: hook for name, hook in hooks.items() if hook is not None}
    cfg.log_processor = dict(type='LogProcessor', window_size=1, by_epoch=True)
    visualizer = dict(cfg.get('visualizer') or dict(type='DetLocalVisualizer'))
    cfg.visualizer = visualizer | dict(vis_backends=[dict(type='LocalVisBackend')])
    return cfg


def branch_config(cfg: Config, branch: Branch) -> Config:
    """Return the config of a branch: the recipe with a constant LR.

    Args:
        cfg (Config): Recipe; not changed.
        branch (Branch): Branch.

    Returns:
        Config: Copy of the recipe.
    """
    cfg = quiet(cfg, branch.folder)
    cfg.load_from = None
    cfg.auto_scale_lr = cfg.param_scheduler = None
    hooks = {name: hook for name, hook in cfg.default_hooks.items() if name != 'lr'}
    hooks = {k: hook for k, hook in hooks.items() if type_name(hook) != 'WarmupStepLRHook'}
    cfg.default_hooks = hooks | dict(lr=dict(type='WarmupStepLRHook', milestones=[]))
    cfg.optim_wrapper.optimizer.lr = branch.lr
    cfg.train_cfg.global_batch_size = branch.batch
    return cfg
