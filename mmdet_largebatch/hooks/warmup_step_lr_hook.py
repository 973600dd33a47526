"""Convert a recipe's epochs into updates and install the LR schedule."""

import math
from collections.abc import Sequence
from numbers import Real

from mmdet.registry import HOOKS
from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from ..checks import (
    check,
    check_factors,
    check_milestones,
    check_scaling,
    check_warmup,
    invalid,
)
from ..compat import accumulative_counts, resumes, train_loop
from ..schedulers.warmup_step_lr import WarmupStepLR
from ..utils.record import note
from ..utils.runner import is_training

SCALE_EXPONENTS = {'linear': 1.0, 'sqrt': 0.5}


@HOOKS.register_module()
class WarmupStepLRHook(Hook):
    """Schedule the LR of a training: linear warmup, then step decay.

    It stands in ``default_hooks`` under the key ``lr``, where the command line reaches each
    setting (``default_hooks.lr.warmup_iters=1000``), and takes the place of ``param_scheduler``.
    When a training starts it installs a :class:`WarmupStepLR`, which MMEngine's
    ``ParamSchedulerHook`` steps once an update and ``CheckpointHook`` saves, and logs in one line
    what it resolved. At a test or a validation it does nothing.

    A number of epochs with a fraction becomes the nearest whole update.

    Args:
        milestones (Sequence[int or float]): Epochs at which the LR decays, increasing, within
            the training; empty for none.
        gamma (float): Factor of one decay. Defaults to 0.1.
        warmup_ratio (float): Factor of the first update of the warmup, in (0, 1].
            Defaults to 0.001.
        warmup_iters (int, optional): Length of the warmup in updates. None means not given; so
            it does for ``warmup_epochs``, and without either there is no warmup.
            Defaults to None.
        warmup_epochs (int or float, optional): Length of the warmup in epochs. Defaults to None.
        scale_rule (str, optional): How every group's LR is scaled when the global batch is not
            ``base_batch_size``: by ``global_batch / base_batch_size`` (``'linear'``, Goyal et
            al. 2017, arXiv 1706.02677) or by its square root (``'sqrt'``, Krizhevsky 2014,
            arXiv 1404.5997). None leaves the LR as the config gives it. Defaults to None.
        base_batch_size (int, optional): Global batch in images that the config's LR is meant
            for; goes with ``scale_rule``. Defaults to None.

    Raises:
        SettingError: In one line with the setting, its value and what would be right: here for
            what a setting alone shows, in :meth:`before_run` for what depends on the training.

    Examples:
        >>> from mmdet.registry import HOOKS
        >>> param_scheduler = None
        >>> default_hooks = dict(
        ...     lr=dict(type='WarmupStepLRHook', warmup_iters=500, milestones=[8, 11]))
        >>> HOOKS.build(default_hooks['lr']).gamma
        0.1
    """

    # Set in before_run of a training.
    scheduler: WarmupStepLR

    def __init__(
        self,
        milestones: Sequence[int | float],
        gamma: float = 0.1,
        warmup_ratio: float = 0.001,
        warmup_iters: int | None = None,
        warmup_epochs: int | float | None = None,
        scale_rule: str | None = None,
        base_batch_size: int | None = None,
    ) -> None:
        owner = type(self).__name__
        check_milestones(owner, milestones, Real, 'epochs')
        check_factors(owner, gamma, warmup_ratio)
        check_warmup(owner, warmup_iters, warmup_epochs)
        check_scaling(owner, scale_rule, base_batch_size, list(SCALE_EXPONENTS))

        self.milestones = list(milestones)
        self.gamma = gamma
        self.warmup_ratio = warmup_ratio
        self.warmup_iters = warmup_iters
        self.warmup_epochs = warmup_epochs
        self.scale_rule = scale_rule
        self.base_batch_size = base_batch_size

    def before_run(self, runner: Runner) -> None:
        """Install the schedule, if this run is a training.

        Args:
            runner (Runner): The runner, which fires this before ``train``, ``val`` and ``test``.

        Raises:
            SettingError: If the settings do not fit the training, or the config sets the LR in
                another way too.
        """
        if not is_training(runner):
            return
        loop: BaseLoop = train_loop(runner)
        optim_wrapper, installed = runner.optim_wrapper, getattr(self, 'scheduler', None)
        # A test after the training, by the same runner.
        if any(scheduler is installed for scheduler in runner.param_schedulers or []):
            return

        self._check_sole_schedule(runner)
        global_batch = self._global_batch(runner)
        updates_per_epoch = self._updates_per_epoch(loop)
        warmup, milestones = self._in_updates(updates_per_epoch, loop)
        scale = 1.0
        if self.scale_rule is not None and self.base_batch_size is not None:
            if global_batch is None:
                wanted = f'None: no batch size can be read off {type(loop.dataloader).__name__}'
                raise invalid(f'{type(self).__name__}.scale_rule', self.scale_rule, wanted)
            scale = (global_batch / self.base_batch_size) ** SCALE_EXPONENTS[self.scale_rule]
        for group in optim_wrapper.param_groups:
            group['lr'] *= scale
        self.scheduler = WarmupStepLR(
            optim_wrapper, warmup, milestones, self.gamma, self.warmup_ratio
        )
        runner.param_schedulers = [self.scheduler]
        note(
            runner,
            lr=optim_wrapper.optimizer.defaults['lr'] * scale,
            warmup_updates=warmup,
            milestones=milestones,
            gamma=self.gamma,
        )
        runner.logger.info(self._summary(global_batch, scale, updates_per_epoch, loop.max_iters))

    def before_train(self, runner: Runner) -> None:
        """Take the update from the loop where the checkpoint was saved without schedulers.

        Args:
            runner (Runner): The runner, which has resumed by now.
        """
        if self.scheduler.last_step != runner.iter:
            runner.logger.warning(
                f'{type(self).__name__}: the checkpoint brought the training to update '
                f'{runner.iter} and the schedule to {self.scheduler.last_step} (was it saved '
                f'without param_schedulers?); the schedule is put to {runner.iter} too'
            )
            self.scheduler.load_state_dict({'update': runner.iter})

    def _check_sole_schedule(self, runner: Runner) -> None:
        """Refuse whatever sets the LR besides this hook, or keeps it from doing so."""
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            names = list(runner.optim_wrapper.keys())
            raise invalid('optim_wrapper', names, 'a single optimizer, not several')
        others = [type(scheduler).__name__ for scheduler in runner.param_schedulers or []]
        wanted = f'None: {type(self).__name__} is the schedule'
        check(not others, 'param_scheduler', others, wanted)
        if (runner.auto_scale_lr or {}).get('enable', False):
            raise invalid(
                'auto_scale_lr.enable',
                True,
                'False, since it knows no global batch and would scale the LR a second time: use '
                'scale_rule and base_batch_size of default_hooks.lr instead of --auto-scale-lr',
            )
        if not any(isinstance(hook, ParamSchedulerHook) for hook in runner.hooks):
            wanted = "dict(type='ParamSchedulerHook'), which steps the schedule"
            raise invalid('default_hooks.param_scheduler', None, wanted)
        if any('initial_lr' in group for group in runner.optim_wrapper.param_groups):
            raise invalid(
                'resume',
                resumes(runner),
                "True, with the checkpoint as load_from: the optimizer's state was loaded before "
                "the training began and holds another schedule's LR",
            )

    def _global_batch(self, runner: Runner) -> int | None:
        """Images of one update, None where the loader tells no batch size."""
        loop: BaseLoop = train_loop(runner)
        if getattr(loop, 'global_batch_size', None) is not None:
            return loop.global_batch_size
        loader = loop.dataloader
        # mmdet's aspect-ratio batches come from a batch sampler: the loader's own size is None.
        batch = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
        global_batch = batch and batch * runner.world_size
        counts = accumulative_counts(runner.optim_wrapper)
        wanted = (
            f'1 with {type(loop).__name__}, which steps the schedule every micro-batch: use '
            "train_cfg.type='GlobalBatchTrainLoop' with "
            f'global_batch_size={global_batch and global_batch * counts}'
        )
        check(counts == 1, 'optim_wrapper.accumulative_counts', counts, wanted)
        return global_batch

    def _updates_per_epoch(self, loop: BaseLoop) -> int:
        if hasattr(loop, 'updates_per_epoch'):
            return loop.updates_per_epoch
        wanted = (
            'a loop with epochs, such as EpochBasedTrainLoop (by_epoch=True) or '
            'GlobalBatchTrainLoop: milestones are in epochs'
        )
        ok = isinstance(loop, EpochBasedTrainLoop)
        check(ok, 'train_cfg.type', type(loop).__name__, wanted)
        return loop.max_iters // loop.max_epochs

    def _in_updates(self, updates_per_epoch: int, loop: BaseLoop) -> tuple[int, list[int]]:
        """Return the warmup and the milestones in updates."""
        owner = type(self).__name__
        end = loop.max_iters
        training = f'the training of {end / updates_per_epoch:g} epochs ({end} updates)'
        setting, warmup = 'warmup_iters', self.warmup_iters or 0
        if self.warmup_epochs is not None:
            setting, warmup = 'warmup_epochs', _nearest(self.warmup_epochs * updates_per_epoch)
        value = getattr(self, setting)
        check(warmup <= end, f'{owner}.{setting}', value, f'no longer than {training}')

        milestones = [_nearest(epoch * updates_per_epoch) for epoch in self.milestones]
        ok = all(0 < update < end for update in milestones)
        check(ok, f'{owner}.milestones', self.milestones, f'inside {training}')
        ok = len(set(milestones)) == len(milestones)
        wanted = f'at least an update apart ({updates_per_epoch} an epoch)'
        check(ok, f'{owner}.milestones', self.milestones, wanted)
        return warmup, milestones

    def _summary(
        self, global_batch: int | None, scale: float, updates_per_epoch: int, end: int
    ) -> str:
        schedule = self.scheduler
        lrs = schedule.base_values
        # With several groups MMEngine appends its record of the optimizer's own LR.
        lr = f'LR {lrs[-1]:.6g}'
        if min(lrs) != max(lrs):
            lr += f' (groups from {min(lrs):.6g} to {max(lrs):.6g})'
        if self.scale_rule is not None:
            lr += f' by the {self.scale_rule} rule, x {scale:.6g} from {self.base_batch_size}'
        else:
            lr += ' as configured'
        warmup = 'no warmup'
        if schedule.warmup_iters:
            epochs = schedule.warmup_iters / updates_per_epoch
            warmup = f'warmup of {schedule.warmup_iters} updates ({epochs:.4g} epochs)'
            warmup += f' from x {self.warmup_ratio:g}'
        decay = 'no decay'
        if schedule.milestones:
            updates = ', '.join(map(str, schedule.milestones))
            at = ', '.join(f'{epoch:g}' for epoch in self.milestones)
            decay = f'x {self.gamma:g} at updates {updates} (epochs {at})'
        return (
            f'{type(self).__name__}: global batch {global_batch or "unknown"}; {lr}; {warmup}; '
            f'{decay}; {end} updates, {updates_per_epoch} an epoch'
        )


def _nearest(updates: int | float) -> int:
    return math.floor(updates + 0.5)
