"""Save everything that a run needs to continue, and resume from it."""

import re
import time
from pathlib import Path
from typing import Any

from mmdet.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner

from ..checkpoints.choosing import choose_checkpoint
from ..checkpoints.comparing import weights_taken
from ..checkpoints.finding import SAVED_AT, last_checkpoint
from ..checkpoints.hook_states import HOOKS_STATE, collect
from ..checkpoints.optimizer_settings import OPTIMIZER
from ..checkpoints.resuming import Resuming
from ..checks import check, is_number
from ..compat import has_loaded, resumes, set_load_from, set_resume
from ..errors import SettingError
from ..utils.dist import any_rank, from_main_process
from ..utils.runner import find_hook, is_training, plain_model, repeats_epochs
from .atomic_saving_hook import RESTART, AtomicSavingHook


@HOOKS.register_module()
class AtomicCheckpointHook(AtomicSavingHook):
    """Save checkpoints atomically, and resume from the newest valid one.

    **Atomic saves.** A checkpoint is written to a temporary file in its folder, synced and renamed.
    So is ``last_checkpoint``. An outdated checkpoint is removed only after the new one is written.
    A failed save is logged as an error and the training continues; if the last state could not be
    saved, the training ends with an error. Object stores (``out_dir``, ``backend_args``) already
    write atomically; MMEngine's behaviour is unchanged there.

    **Resume.** ``--resume`` without a path loads the newest valid checkpoint of the work folder and
    of ``out_dir``, the file that ``last_checkpoint`` names included. Saves of a user's own hook
    count only without others. Checksums are verified, which PyTorch does not do. The log names each
    skipped file. A checkpoint of another model, optimizer or set of parameter groups is refused in
    one line before anything is loaded. The state comes from the checkpoint and the settings from
    the config. Each difference, and each missing part, is a log line that begins with ``Resume:``.

    **Between two checkpoints** the state is saved as ``restart_UPDATE.pth``: by
    ``every_minutes``, by :class:`PreemptionHook`, and with ``save_last`` at an early end
    (``max_updates``, early stopping). The next checkpoint of any kind replaces this file. Under
    MMEngine's ``EpochBasedTrainLoop``, which repeats an epoch that it resumes within, this is done
    between epochs alone.

    **Several hooks** of this class may save. The first one resumes, and the others follow it.

    **Evaluations.** No checkpoint to resume from is saved within an evaluation, because hooks such
    as ``EMAHook`` have other weights in the model then. With a :class:`PreemptionHook`, with
    ``every_minutes`` and at a cut by ``max_updates``, the state is saved before the evaluation.
    Nothing is saved before an evaluation that a user's hook runs within an update.

    **State of hooks.** A checkpoint holds the counts of ``EarlyStoppingHook``, and the state of
    every hook with ``state_dict()`` and ``load_state_dict(state)``.

    Args:
        every_minutes (float, optional): Minutes after the last save at which the state is saved,
            at the end of an update; of an epoch under ``EpochBasedTrainLoop``. None for never.
            Defaults to None.
        *args: As for :class:`mmengine.hooks.CheckpointHook`.
        **kwargs: As for :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        SettingError: If ``every_minutes`` is not above 0, or ``filename_tmpl`` begins with
            ``best_`` or ``restart_``. When a training resumes: if there are checkpoints and none is
            valid, or the checkpoint does not belong to the config.

    Examples:
        >>> from mmdet.registry import HOOKS
        >>> default_hooks = dict(
        ...     checkpoint=dict(type='AtomicCheckpointHook', interval=1, every_minutes=10))
        >>> HOOKS.build(default_hooks['checkpoint']).every_minutes
        10
    """

    def __init__(self, *args: Any, every_minutes: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name = 'default_hooks.checkpoint'
        ok = every_minutes is None or (is_number(every_minutes) and every_minutes > 0)
        check(ok, f'{name}.every_minutes', every_minutes, 'above 0, or None for never')
        wanted = 'a name that does not begin with best_ or restart_, as other checkpoints do'
        ok = not self.filename_tmpl.startswith(('best_', 'restart_'))
        check(ok, f'{name}.filename_tmpl', self.filename_tmpl, wanted)
        self.every_minutes = every_minutes
        # PreemptionHook sets this too: it may end a training within an evaluation.
        self.save_before_evaluations = every_minutes is not None
        self._training = False
        # Time of the newest save, by SAVED_AT.
        self._newest_time = 0
        self._resuming: Resuming | None = None

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from, before MMEngine does."""
        if not is_training(runner) or has_loaded(runner):
            return
        if (first := find_hook(runner, AtomicCheckpointHook)) not in (self, None):
            self.newest = first.newest
            return
        self._resuming = Resuming(runner)
        if not resumes(runner):
            return
        folders: list[str | Path] = [runner.work_dir]
        # Another run's folder in out_dir has the same name if its work folder has.
        if self.out_dir is not None and (last := last_checkpoint(runner.work_dir)):
            folders.append(Path(last).parent)
        pattern = re.sub(r'\{[^}]*\}', '*', self.filename_tmpl)
        choice = choose_checkpoint(runner, folders, pattern)
        for line in choice.skipped:
            runner.logger.warning(f'Resume skips {line}.')
        if choice.refused:
            raise SettingError(choice.refused)
        if choice.path is None:
            runner.logger.info(
                f'work_dir={runner.work_dir} has no checkpoint: the training begins at update 0.'
            )
            set_resume(runner, False)
        self.newest = choice.path
        set_load_from(runner, self.newest)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the config's settings into a checkpoint to resume from; sum up any other."""
        if resumes(runner):
            saved_at = (checkpoint.get('meta') or {}).get(SAVED_AT, 0)
            self._newest_time = max(self._newest_time, saved_at)
        if find_hook(runner, AtomicCheckpointHook) is not self:
            return
        if self._resuming is not None and resumes(runner):
            for line in self._resuming.prepare(runner, checkpoint):
                runner.logger.warning(f'Resume: {line}.')
            self.newest_is_complete = {'optimizer', 'param_schedulers'} <= set(checkpoint)
        elif not plain_model(runner.model)._load_state_dict_pre_hooks:
            runner.logger.info(weights_taken(runner, checkpoint))

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder, and finish the resume."""
        super().before_train(runner)
        if self.newest is not None and self._owns(self.newest):
            self.newest_update = runner.iter
        if self.every_minutes is not None and repeats_epochs(runner):
            runner.logger.warning(
                f'every_minutes={self.every_minutes}: the state is saved between epochs alone. '
                f'{type(runner.train_loop).__name__} repeats an epoch that it resumes within.'
            )
        self._catch_up(runner)
        self._training = True

    def after_rollback(self, runner: Runner) -> None:
        """Return to the other checkpoints that the restored one knows of."""
        info = runner.message_hub.runtime_info
        self._set_best_paths(info)
        self._recall_kept(runner)
        self.last_ckpt, self._begun = None, (-1, -1)
        self._catch_up(runner)
        # The next save is made even if the newest checkpoint holds the same update.
        self.newest_update = -1

    def _catch_up(self, runner: Runner) -> None:
        """Find the last checkpoint of an interval, and set the schedule to the update."""
        last = runner.message_hub.get_info('last_ckpt')
        if self.last_ckpt is None and last and self.file_backend.isfile(last):
            self.last_ckpt = last
        if self._resuming is not None:
            self._resuming.schedule.catch_up(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save at the end of an interval of updates or of minutes."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        self._save_if_due(runner, runner.iter + 1)

    def before_train_epoch(self, runner: Runner) -> None:
        """Save at the end of an interval of minutes under a loop that would repeat the epoch."""
        if repeats_epochs(runner):
            self._save_if_due(runner, runner.iter)

    def _save_if_due(self, runner: Runner, update: int) -> None:
        if self.every_minutes is not None:
            due = time.monotonic() - self.saved_at >= 60 * self.every_minutes
            if any_rank(due):
                self.save_now(runner, update)

    def before_evaluation(self, runner: Runner) -> None:
        """Save before an evaluation. :class:`GlobalBatchTrainLoop` calls this."""
        if not self._training:
            return
        cut = self.save_last and runner.iter == getattr(runner.train_loop, 'end', None)
        if self.save_before_evaluations or cut:
            self.save_now(runner, runner.iter)

    def before_val(self, runner: Runner) -> None:
        """Save before an evaluation under other loops, unless a hook evaluates in an update."""
        if not self.in_update(runner):
            self.before_evaluation(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state of hooks, the optimizer's settings and the time.

        MMEngine saves the last checkpoint again once an evaluation found the best weights. The
        state then stays that of before the evaluation.
        """
        if self._before_evaluation and self._writing:
            before = CheckpointLoader.load_checkpoint(self._before_evaluation, map_location='cpu')
            before['message_hub'] = checkpoint['message_hub']
            for key in {'optimizer', 'param_schedulers'} - set(checkpoint):
                # Of a restart file, which is complete whatever save_optimizer says.
                before.pop(key, None)
            checkpoint.clear()
            checkpoint.update(before)
        elif find_hook(runner, AtomicCheckpointHook) is self:
            checkpoint[HOOKS_STATE] = collect(runner)
            if self._resuming is not None and self._resuming.settings is not None:
                checkpoint['meta'][OPTIMIZER] = self._resuming.settings
        if self._writing:
            # Later than the save before, also if the clock was set back since.
            self._newest_time = max(time.time_ns(), self._newest_time + 1)
            checkpoint['meta'][SAVED_AT] = self._newest_time

    def after_train(self, runner: Runner) -> None:
        """Save the last state if no checkpoint holds it, and publish as MMEngine does.

        Raises:
            SettingError: If the last save failed.
        """
        self._training = False
        if self.save_last:
            failure = self.failure
            if self.newest_update != runner.iter:
                self._write_restart(runner, runner.iter)
            if self.newest_update == runner.iter:
                self.last_ckpt = self.newest
            elif failure:
                self.failure = failure
        if self.failure:
            raise SettingError(self.failure)
        super().after_train(runner)

    def save_now(self, runner: Runner, update: int) -> str | None:
        """Save the state after an update, unless it is saved already. Called on every rank.

        Returns:
            str, optional: Path of the checkpoint that holds it; None if it could not be saved, or
            if the loop cannot continue from it: MMEngine's ``EpochBasedTrainLoop`` repeats an epoch
            that it resumes within.
        """
        if update != runner.iter and repeats_epochs(runner):
            return None
        if self.newest_update != update or not self.newest_is_complete:
            self._write_restart(runner, update)
        return self.saved(update)

    def saved(self, update: int) -> str | None:
        """Return the path of the checkpoint of an update, if there is one. Called on every rank."""
        return from_main_process(self.newest if self.newest_update == update else None)

    def _write_restart(self, runner: Runner, update: int) -> bool:
        meta = dict(epoch=runner.epoch, iter=update)
        return self.write(runner, RESTART.format(update), meta, complete=True)
