"""Convert epochs into updates, scale the LR and install the LR schedule."""

from collections.abc import Sequence
from numbers import Integral, Real

from mmdet.registry import HOOKS
from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from ..checks import check, invalid, is_number
from ..compat import accumulative_counts, resumes, train_loop
from ..errors import SettingError
from ..schedulers.scaling import SCALE_EXPONENTS, scale_factor
from ..schedulers.warmup_step_lr import WarmupStepLR, check_schedule
from ..utils.record import note
from ..utils.runner import find_hook, is_training


@HOOKS.register_module()
class WarmupStepLRHook(Hook):
    """Schedule the LR of a training: linear warmup, then step decay.

    It replaces ``param_scheduler``. As ``default_hooks.lr`` every setting can be given on the
    command line (``default_hooks.lr.warmup_iters=1000``). When a training begins, the hook installs
    a :class:`WarmupStepLR`, which MMEngine's ``ParamSchedulerHook`` steps once per update, and logs
    the schedule in one line. In a test or a validation it does nothing.

    Fractions of epochs are rounded to whole updates.

    Args:
        milestones (Sequence[int or float]): Epochs at which the LR decays, increasing, within
            the training; empty for none.
        gamma (float): Factor of one decay. Defaults to 0.1.
        warmup_ratio (float): Factor of the first update of the warmup, in (0, 1].
            Defaults to 0.001.
        warmup_iters (int, optional): Length of the warmup in updates. Without ``warmup_iters`` and
            ``warmup_epochs`` there is no warmup. Defaults to None.
        warmup_epochs (int or float, optional): Length of the warmup in epochs, instead of
            ``warmup_iters``. Defaults to None.
        scale_rule (str, optional): Scale the LR of every parameter group by
            ``global_batch / base_batch_size`` (``'linear'``, Goyal et al. 2017, arXiv 1706.02677)
            or by its square root (``'sqrt'``, Krizhevsky 2014, arXiv 1404.5997). None to use the
            LR of the config. Defaults to None.
        base_batch_size (int, optional): Global batch of the configured LR, in images, for
            ``scale_rule``. Defaults to None.

    Raises:
        SettingError: If a setting is invalid. When a training begins: if the settings do not fit
            its length, or the config sets the LR in another way too.

    Examples:
        >>> from mmdet.registry import HOOKS
        >>> param_scheduler = None
        >>> default_hooks = dict(
        ...     lr=dict(type='WarmupStepLRHook', warmup_iters=500, milestones=[8, 11]))
        >>> HOOKS.build(default_hooks['lr']).gamma
        0.1
    """

    # Installed in before_run of a training.
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
        updates = 0 if warmup_iters is None else warmup_iters
        check_schedule(owner, updates, milestones, gamma, warmup_ratio, Real, 'epochs')
        if warmup_iters is not None and warmup_epochs is not None:
            raise SettingError(
                f'Invalid {owner}.warmup_iters={warmup_iters!r} with warmup_epochs='
                f'{warmup_epochs!r}. Must be one of them: set default_hooks.lr.warmup_iters=None '
                'too to keep the epochs, or default_hooks.lr.warmup_epochs=None to keep the '
                'updates.'
            )
        ok = warmup_epochs is None or (is_number(warmup_epochs) and warmup_epochs >= 0)
        check(ok, f'{owner}.warmup_epochs', warmup_epochs, 'a number of epochs, 0 for none')
        wanted = f'one of {", ".join(map(repr, SCALE_EXPONENTS))}'
        ok = scale_rule in (None, *SCALE_EXPONENTS)
        check(ok, f'{owner}.scale_rule', scale_rule, wanted)
        if base_batch_size is None:
            images = f'the global batch of the configured LR, with scale_rule={scale_rule!r}'
            check(scale_rule is None, f'{owner}.base_batch_size', None, images)
        else:
            ok = is_number(base_batch_size, Integral) and base_batch_size > 0
            images = 'a whole number of images above 0'
            check(ok, f'{owner}.base_batch_size', base_batch_size, images)
            wanted += f', with base_batch_size={base_batch_size}'
            check(scale_rule is not None, f'{owner}.scale_rule', None, wanted)

        self.milestones = list(milestones)
        self.gamma = gamma
        self.warmup_ratio = warmup_ratio
        self.warmup_iters = warmup_iters
        self.warmup_epochs = warmup_epochs
        self.scale_rule = scale_rule
        self.base_batch_size = base_batch_size

    def before_run(self, runner: Runner) -> None:
        """Install the schedule of a training."""
        installed = getattr(self, 'scheduler', None)
        # A runner that has trained may test afterwards.
        if not is_training(runner) or runner.param_schedulers == [installed]:
            return
        loop: BaseLoop = train_loop(runner)
        optim_wrapper = runner.optim_wrapper

        self._check_run(runner, loop)
        global_batch = self._global_batch(runner, loop)
        updates_per_epoch = loop.max_iters // loop.max_epochs
        warmup, milestones = self._in_updates(updates_per_epoch, loop)
        scale = 1.0
        if self.scale_rule is not None and self.base_batch_size is not None:
            if global_batch is None:
                wanted = f'None: no batch size can be read off {type(loop.dataloader).__name__}'
                raise invalid(f'{type(self).__name__}.scale_rule', self.scale_rule, wanted)
            scale = scale_factor(self.scale_rule, global_batch, self.base_batch_size)
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
        """Set the schedule to the update of the loop, if the checkpoint lacks it."""
        if self.scheduler.last_step != runner.iter:
            runner.logger.warning(
                f'{type(self).__name__}: the checkpoint holds update {runner.iter} and a schedule '
                f'at update {self.scheduler.last_step} (was it saved without param_schedulers?); '
                f'the schedule is set to update {runner.iter}'
            )
            self.scheduler.load_state_dict({'update': runner.iter})

    def _check_run(self, runner: Runner, loop: BaseLoop) -> None:
        """Refuse other settings of the LR, and a run that this hook cannot schedule."""
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            names = list(runner.optim_wrapper.keys())
            raise invalid('optim_wrapper', names, 'a single optimizer, not several')
        others = [type(scheduler).__name__ for scheduler in runner.param_schedulers or []]
        wanted = f'None: {type(self).__name__} is the schedule'
        check(not others, 'param_scheduler', others, wanted)
        # GlobalBatchTrainLoop has set scale_rule by then.
        followed = getattr(loop, 'global_batch_size', None) is not None
        ok = followed or not (runner.auto_scale_lr or {}).get('enable', False)
        wanted = (
            f'False with {type(loop).__name__}, which knows no global batch: use scale_rule and '
            'base_batch_size of default_hooks.lr instead of --auto-scale-lr'
        )
        check(ok, 'auto_scale_lr.enable', True, wanted)
        wanted = "dict(type='ParamSchedulerHook'), which steps the schedule"
        ok = find_hook(runner, ParamSchedulerHook) is not None
        check(ok, 'default_hooks.param_scheduler', None, wanted)
        if any('initial_lr' in group for group in runner.optim_wrapper.param_groups):
            wanted = (
                "True, with the checkpoint as load_from: the optimizer's state was loaded before "
                "the training began and holds another schedule's LR"
            )
            raise invalid('resume', resumes(runner), wanted)
        wanted = (
            'a loop with epochs, such as EpochBasedTrainLoop (by_epoch=True) or '
            'GlobalBatchTrainLoop: milestones are in epochs'
        )
        ok = isinstance(loop, EpochBasedTrainLoop)
        check(ok, 'train_cfg.type', type(loop).__name__, wanted)

    def _global_batch(self, runner: Runner, loop: EpochBasedTrainLoop) -> int | None:
        """Return the images of one update; None if the loader has no batch size."""
        if getattr(loop, 'global_batch_size', None) is not None:
            return loop.global_batch_size
        loader = loop.dataloader
        # With a batch sampler, such as mmdet's AspectRatioBatchSampler, the loader's size is None.
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

    def _in_updates(self, updates_per_epoch: int, loop: BaseLoop) -> tuple[int, list[int]]:
        """Return the warmup and the milestones in updates."""
        owner = type(self).__name__
        end = loop.max_iters
        training = f'the training of {end / updates_per_epoch:g} epochs ({end} updates)'
        setting, warmup = 'warmup_iters', self.warmup_iters or 0
        if self.warmup_epochs is not None:
            setting, warmup = 'warmup_epochs', int(self.warmup_epochs * updates_per_epoch + 0.5)
        value = getattr(self, setting)
        check(warmup <= end, f'{owner}.{setting}', value, f'no longer than {training}')

        milestones = [int(epoch * updates_per_epoch + 0.5) for epoch in self.milestones]
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
        # With several groups MMEngine appends the optimizer's own LR.
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
