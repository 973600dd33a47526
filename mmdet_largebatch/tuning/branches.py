"""List branches of a training, and make their configs."""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from mmengine.config import Config

from ..checks import check
from ..hooks.atomic_saving_hook import RESTART
from ..recipes.change import apply_changes
from ..recipes.optimizer import absolute_lrs
from ..results.settings import check_by_epoch, check_lr_is_followed, optimizer_config
from ..utils.type_names import type_name
from .branch_start import BranchStart
from .training_job import TrainingJob

LOOP = 'GlobalBatchTrainLoop'
# Factor of the LR after a branch: that of a step decay in MMDetection's schedules.
DECAY = 0.1


@dataclass(frozen=True)
class Branch(TrainingJob):
    """A short training from a state that other branches begin from too.

    Its length is given on the command line, not in its config, so that it can grow.

    Args:
        lr (float): LR, held constant.
        batch (int): Images of an update.
        begin (BranchStart): State that it begins from.
        updates (int): Updates that it makes.
        max_epochs (int): Epochs of the recipe.
        trust (bool): Load a checkpoint that names code. Defaults to False.
    """

    lr: float
    batch: int
    begin: BranchStart
    updates: int
    max_epochs: int
    trust: bool = False

    @property
    def end(self) -> int:
        """int: Update of the whole training at which it ends."""
        return self.begin.update + self.updates

    @property
    def arguments(self) -> list[str]:
        """list[str]: Arguments of ``train.py``."""
        # One more than needed: cut short, it saves its end as a restart file.
        epochs = self.end // (self.begin.updates_per_epoch or 1) + 1
        lengths = dict(max_updates=self.end, max_epochs=max(self.max_epochs, epochs))
        trust = ['--trust-checkpoint'] if self.trust else []
        options = [f'train_cfg.{name}={value}' for name, value in lengths.items()]
        return [*super().arguments, *trust, '--cfg-options', *options]

    def decayed(self, updates: int) -> 'Branch':
        """Return the branch that goes on from this one with a tenth of its LR.

        Args:
            updates (int): Updates to make.

        Returns:
            Branch: The branch, in a folder beside this one.
        """
        epoch = self.end // (self.begin.updates_per_epoch or 1)
        path = self.folder / RESTART.format(self.end)
        return replace(
            self,
            folder=self.folder.with_name(f'{self.folder.name}_decay{self.end}'),
            start=path,
            lr=self.lr * DECAY,
            begin=replace(self.begin, path=path, epoch=epoch, update=self.end),
            updates=updates,
        )


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
    check_lr_is_followed(cfg, 'in branches')


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

    LRs of ``paramwise_cfg`` keep their ratio to the LR of the optimizer.

    Args:
        cfg (Config): Recipe; not changed.
        branch (Branch): Branch.

    Returns:
        Config: Copy of the recipe.
    """
    ratio = branch.lr / optimizer_config(cfg)['lr']
    cfg = apply_changes(quiet(cfg, branch.folder), absolute_lrs(cfg, ratio))
    cfg.load_from = None
    cfg.pop('first_start', None)
    cfg.auto_scale_lr = cfg.param_scheduler = None
    hooks = {name: hook for name, hook in cfg.default_hooks.items() if name != 'lr'}
    hooks = {k: hook for k, hook in hooks.items() if type_name(hook) != 'WarmupStepLRHook'}
    cfg.default_hooks = hooks | dict(lr=dict(type='WarmupStepLRHook', milestones=[]))
    if cfg.get('custom_hooks'):
        others = [hook for hook in cfg.custom_hooks if type_name(hook) != 'WarmupStepLRHook']
        cfg.custom_hooks = others
    cfg.optim_wrapper.optimizer.lr = branch.lr
    cfg.train_cfg.global_batch_size = branch.batch
    return cfg
