"""MMEngine's checkpoint hook, with checkpoints that are whole or absent."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import CheckpointLoader, Runner

from ..checkpoints.atomic_file import AtomicFileBackend, remove_partial_files
from ..checkpoints.comparing import OPTIMIZER, refusal
from ..checkpoints.finding import SAVED_AT, checkpoint_defect, newest_checkpoint
from ..checkpoints.hook_states import HOOKS_STATE, collect
from ..checkpoints.resuming import Resuming, weights_taken
from ..checks import invalid
from ..compat import has_loaded, load_from, resumes, set_load_from, set_resume
from ..errors import SettingError
from ..utils.dist import any_rank, from_main_process
from ..utils.runner import is_training, plain_model

RESTART = 'restart_{}.pth'


class _Choice(TypedDict):
    """The checkpoint to resume from, the newer ones that are not valid, and why it is refused."""

    path: str | None
    passed_over: list[str]
    refused: str | None


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Save checkpoints that are whole or absent, and resume from the newest that reads whole.

    A checkpoint is written under another name in its folder, synced and renamed, as is
    ``last_checkpoint``, and an outdated checkpoint is removed only when the new one stands. So at
    every instant after the first save there is one to go on from. A save that fails, as on a full
    disk, is logged as an error and the training goes on; a training whose last state could not be
    saved ends with an error.

    When a training is resumed without a path (``--resume``), the newest checkpoint that reads whole
    is taken, whatever ``last_checkpoint`` says, and the log names any that was passed over. Its
    checksums are verified, which PyTorch does not do.

    This goes for local folders, shared ones included. With ``out_dir`` or ``backend_args`` of an
    object store, whose writes are whole or absent by themselves, MMEngine's own ways remain.

    Besides what the intervals say it saves the state between two of those checkpoints, as
    ``restart_UPDATE.pth``: every so many minutes, when :class:`PreemptionHook` asks for it, and
    with ``save_last`` at the end of a training that ended early (``max_updates``, early stopping).
    The next checkpoint of any kind replaces it. Within an evaluation, where hooks such as
    ``EMAHook`` have other weights in the model, nothing is saved to resume from. So with a
    :class:`PreemptionHook`, with ``every_minutes``, and at a cut by ``max_updates``, the state is
    saved before an evaluation begins, unless a checkpoint holds it.

    A checkpoint also keeps the state of hooks: the counts of ``EarlyStoppingHook``, and what a hook
    with ``state_dict()`` and ``load_state_dict(state)`` returns. It is put back before
    ``before_train``.

    A checkpoint that does not belong to the config (other weights, another optimizer, other
    parameter groups) is refused in one line before anything is loaded. Otherwise its state is taken
    and the config's settings are, and each thing that it lacks, or that differs, is a line of the
    log that begins with ``Resume:``.

    Args:
        every_minutes (float, optional): Minutes after the last save at which the state is saved at
            the end of an update, whatever the interval. It is agreed between the ranks.
            None for never. Defaults to None.
        **kwargs: As for :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        SettingError: If ``every_minutes`` is not above 0, or ``filename_tmpl`` begins as the names
            of other checkpoints do; and, when a training begins, if no checkpoint of its folder, or
            not the one that is given, reads whole, or if it does not belong to the config.

    Examples:
        >>> from mmdet.registry import HOOKS
        >>> default_hooks = dict(
        ...     checkpoint=dict(type='AtomicCheckpointHook', interval=1, every_minutes=10))
        >>> HOOKS.build(default_hooks['checkpoint']).every_minutes
        10
    """

    backend_args: dict[str, Any] | None
    file_backend: Any
    last_ckpt: str | None

    def __init__(self, *args: Any, every_minutes: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if every_minutes is not None and not (
            isinstance(every_minutes, (int, float)) and every_minutes > 0
        ):
            name = 'default_hooks.checkpoint.every_minutes'
            raise invalid(name, every_minutes, 'above 0, or None for never')
        if self.filename_tmpl.startswith(('best_', 'restart_')):
            raise invalid(
                'default_hooks.checkpoint.filename_tmpl',
                self.filename_tmpl,
                'a name that does not begin with best_ or restart_, as other checkpoints do',
            )
        self.every_minutes = every_minutes
        # Set by hooks that may end a training within an evaluation.
        self.save_before_evaluations = every_minutes is not None
        self.newest: str | None = None
        self.newest_update = -1
        self._complete = False
        self._training = False
        self._resuming: Resuming | None = None
        # The checkpoint from before the evaluation that runs, and whether it is saved once more.
        self._evaluated: str | None = None
        self._in_best = False
        self._saves_again: str | None = None
        self._failure: str | None = None

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from, before MMEngine does.

        Args:
            runner (Runner): The runner.

        Raises:
            SettingError: See the class.
        """
        if not is_training(runner) or has_loaded(runner):
            return
        self._resuming = Resuming(runner)
        if not resumes(runner):
            return
        found: _Choice = from_main_process(self._choose(runner) if is_main_process() else None)
        # Loaders of other addresses wait for all ranks.
        if found['path'] and '://' in found['path']:
            found['refused'] = self._refusal(runner, found['path'])
        for line in found['passed_over']:
            runner.logger.warning(f'Resume passes over {line}.')
        if found['refused']:
            raise SettingError(found['refused'])
        if found['path'] is None:
            runner.logger.info(
                f'work_dir={runner.work_dir} has no checkpoint: the training begins at update 0.'
            )
            set_resume(runner, False)
        self.newest = found['path']
        set_load_from(runner, self.newest)

    def _choose(self, runner: Runner) -> _Choice:
        given = load_from(runner)
        if given is not None:
            defect = checkpoint_defect(given) if os.path.isfile(given) else None
            refused = defect and f'load_from={given}: {defect}. Must be a whole checkpoint.'
            if not refused and '://' not in given:
                refused = self._refusal(runner, given)
            return dict(path=given, passed_over=[], refused=refused)
        folders = [runner.work_dir]
        if self.out_dir is not None:
            folders.append(Path(self.out_dir) / Path(runner.work_dir).name)
        pattern = re.sub(r'\{[^}]*\}', '*', self.filename_tmpl)
        path, passed_over = newest_checkpoint(folders, pattern)
        refused = None
        if path is None and passed_over:
            refused = (
                f'work_dir={runner.work_dir}: no checkpoint in it reads whole ('
                f'{"; ".join(passed_over)}). Must have one to resume from; remove them, or do '
                'without --resume, to begin at update 0.'
            )
        refused = refused or (path and self._refusal(runner, path))
        return dict(path=path, passed_over=passed_over, refused=refused)

    def _refusal(self, runner: Runner, path: str) -> str | None:
        try:
            checkpoint = CheckpointLoader.load_checkpoint(path, map_location='meta')
        except SettingError as error:
            return str(error)
        except Exception:
            # MMEngine meets it too, on every rank.
            return None
        return refusal(runner, checkpoint, path)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the config's settings into a checkpoint to resume from; sum up any other.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is being loaded, changed in place.
        """
        if self._resuming is not None and resumes(runner):
            for line in self._resuming.prepare(runner, checkpoint):
                runner.logger.warning(f'Resume: {line}.')
            self._complete = {'optimizer', 'param_schedulers'} <= set(checkpoint)
        elif not plain_model(runner.model)._load_state_dict_pre_hooks:
            runner.logger.info(weights_taken(runner, checkpoint))

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder.

        Args:
            runner (Runner): The runner, which has resumed by now.
        """
        backend = get_file_backend(self.out_dir or runner.work_dir, backend_args=self.backend_args)
        if type(backend) is LocalBackend and self.file_client_args is None:
            self.backend_args = dict(backend='whole_file')
        super().before_train(runner)
        self._removals = _Removals(self.file_backend)
        self.file_backend = self._removals
        if self.newest is not None and Path(self.newest).parent == Path(self.out_dir):
            self.newest_update = runner.iter
        self._take_last(runner)
        if self._resuming is not None:
            self._resuming.catch_up(runner)
        if self._local and is_main_process():
            os.makedirs(self.out_dir, exist_ok=True)
            remove_partial_files(self.out_dir)
        self._saved_at = time.monotonic()
        self._training = True

    def _take_last(self, runner: Runner) -> None:
        """Know the last checkpoint of an interval again, as a run never stopped does."""
        last = runner.message_hub.get_info('last_ckpt')
        if self.last_ckpt is None and last and self.file_backend.isfile(last):
            self.last_ckpt = last

    def after_rollback(self, runner: Runner) -> None:
        """Know again what the checkpoint says of others.

        Args:
            runner (Runner): The runner, which was put back to a checkpoint.
        """
        if self._resuming is not None:
            self._resuming.catch_up(runner)
        info = runner.message_hub.runtime_info
        if self.save_best is not None and len(self.key_indicators) == 1:
            self.best_ckpt_path = info.get('best_ckpt')
        elif self.save_best is not None:
            for key in self.key_indicators:
                self.best_ckpt_path_dict[key] = info.get(f'best_ckpt_{key}')
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = list(info.get('keep_ckpt_ids', []))
        self.last_ckpt = None
        self._take_last(runner)
        self._complete = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save where an interval of updates or of minutes is over.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Which update of the epoch.
            data_batch (Any): Not used.
            outputs (dict, optional): Not used.
        """
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self.every_minutes is not None:
            due = time.monotonic() - self._saved_at >= 60 * self.every_minutes
            if any_rank(due):
                self.save_now(runner, runner.iter + 1)

    def before_evaluation(self, runner: Runner) -> None:
        """Save what an evaluation may be the last to see. :class:`GlobalBatchTrainLoop` calls this.

        Args:
            runner (Runner): The runner, before any hook's ``before_val``.
        """
        if not self._training:
            return
        loop = runner.train_loop
        cut = self.save_last and runner.iter == getattr(loop, 'end', None)
        if self.save_before_evaluations or cut:
            self.save_now(runner, runner.iter)
        # Where that loop resumes, it evaluates again.
        resumes_before = hasattr(loop, 'end') and self.newest_update == runner.iter
        self._evaluated = self.newest if resumes_before else None

    def before_val(self, runner: Runner) -> None:
        """Do the same under other loops.

        Args:
            runner (Runner): The runner.
        """
        self.before_evaluation(runner)

    def after_val(self, runner: Runner) -> None:
        """Forget which checkpoint the evaluation was of.

        Args:
            runner (Runner): The runner.
        """
        self._evaluated = None

    def after_train(self, runner: Runner) -> None:
        """Save the last state if no checkpoint holds it, and publish as MMEngine does.

        Args:
            runner (Runner): The runner.

        Raises:
            SettingError: If the last save failed.
        """
        self._training = False
        if self.save_last:
            failure = self._failure
            if self.newest_update != runner.iter and not self._write_restart(runner, runner.iter):
                self._failure = failure or self._failure
            newest = self.newest if self.newest_update == runner.iter else None
            if newest is not None and newest.endswith(RESTART.format(runner.iter)):
                self.last_ckpt = newest
        if self._failure:
            raise SettingError(self._failure)
        super().after_train(runner)

    def save_now(self, runner: Runner, update: int) -> str | None:
        """Save the state between two updates, unless it is saved already.

        Called on every rank.

        Args:
            runner (Runner): The runner.
            update (int): Updates that are finished.

        Returns:
            str, optional: Path of the checkpoint that holds it, None if it could not be saved.
        """
        if self.newest_update != update or not self._complete:
            self._write_restart(runner, update)
        return self.saved_already(runner, update)

    def saved_already(self, runner: Runner, update: int) -> str | None:
        """Find the checkpoint that holds the state after an update. Called on every rank.

        Args:
            runner (Runner): Not used.
            update (int): Updates that are finished.

        Returns:
            str, optional: Its path, None where no checkpoint holds it.
        """
        held = self.newest if self.newest_update == update else None
        return from_main_process(held)

    def newest_of_main_process(self) -> str | None:
        """Find the newest checkpoint that stands. Called on every rank.

        Returns:
            str, optional: Its path, None where there is none.
        """
        return from_main_process(self.newest)

    def _write_restart(self, runner: Runner, update: int) -> bool:
        meta = dict(epoch=runner.epoch, iter=update)
        return self._write(runner, RESTART.format(update), meta, complete=True)

    def forget_newest_update(self) -> None:
        """Let the next save be made, also where the newest checkpoint is of the same update."""
        self.newest_update = -1

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the time, the state of hooks and the optimizer's settings.

        A checkpoint that is saved again because an evaluation found the best weights yet is of
        before that evaluation, as it was.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is to be saved.
        """
        if self._saves_again:
            held = CheckpointLoader.load_checkpoint(self._saves_again, map_location='cpu')
            held['message_hub'] = checkpoint['message_hub']
            checkpoint.clear()
            checkpoint.update(held)
        else:
            checkpoint[HOOKS_STATE] = collect(runner)
            if self._resuming is not None and self._resuming.settings is not None:
                checkpoint['meta'][OPTIMIZER] = self._resuming.settings
        checkpoint['meta'][SAVED_AT] = time.time_ns()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self._in_best:
            self._saves_again = self._evaluated
            if self.by_epoch and _is_within_epoch(runner):
                # Its name is not that of the epoch before.
                self._write(runner, RESTART.format(runner.iter), meta, complete=True)
                return
        standing, outdated = [], []
        if self.max_keep_ckpts > 0:
            standing = [other for other in self.keep_ckpt_ids if other != step]
            outdated = [*standing, step][: -self.max_keep_ckpts]
            self.keep_ckpt_ids = [*standing, step][-self.max_keep_ckpts :]
            runner.message_hub.update_info('keep_ckpt_ids', self.keep_ckpt_ids)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        if not self._write(runner, filename, meta):
            # The next save that succeeds will outdate what stands now.
            self.keep_ckpt_ids = standing
            return
        for other in outdated:
            path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(other))
            self._remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        before = dict(runner.message_hub.runtime_info)
        self._in_best = True
        try:
            with self._removals.held_back() as standing:
                super()._save_best_checkpoint(runner, metrics)
                # A training cut twice within an epoch has two of one name.
                standing.update(
                    value
                    for key, value in runner.message_hub.runtime_info.items()
                    if key.startswith('best_ckpt')
                )
        except OSError as error:
            self._log_failure(runner, 'the best checkpoint', error)
            for key in [key for key in runner.message_hub.runtime_info if key.startswith('best_')]:
                runner.message_hub.pop_info(key)
                if key in before:
                    runner.message_hub.update_info(key, before[key])
        finally:
            self._in_best, self._saves_again = False, None

    def _write(self, runner: Runner, filename: str, meta: dict, complete: bool = False) -> bool:
        """Save, point ``last_checkpoint`` to it and drop the restart file that it replaces."""
        update, path = meta['iter'], self.file_backend.join_path(self.out_dir, filename)
        try:
            runner.save_checkpoint(
                self.out_dir,
                filename,
                self.file_client_args,
                save_optimizer=complete or self.save_optimizer,
                save_param_scheduler=complete or self.save_param_scheduler,
                meta=meta,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                pointer = os.path.join(runner.work_dir, 'last_checkpoint')
                AtomicFileBackend().put_text(path, pointer)
        except OSError as error:
            self._failure = self._log_failure(runner, path, error)
            return False
        self.newest, self.newest_update = path, update
        self._complete = complete or (self.save_optimizer and self.save_param_scheduler)
        self._failure = None
        self._saved_at = time.monotonic()
        if self._local and is_main_process():
            for other in Path(self.out_dir).glob(RESTART.format('*')):
                if other.name != filename:
                    self._remove(str(other))
        return True

    def _log_failure(self, runner: Runner, what: str, error: OSError) -> str:
        line = (
            f'{what} could not be saved ({error.strerror or error}). The newest whole checkpoint '
            f'is {self.newest or "none yet"}. Must have room and permission to write in '
            f'{self.out_dir}.'
        )
        runner.logger.error(line)
        return line

    @property
    def _local(self) -> bool:
        return (self.backend_args or {}).get('backend') == 'whole_file'

    def _remove(self, path: str) -> None:
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)


class _Removals:
    """A file backend that can defer removals until the new file is written."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._held: list[str] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        if self._held is None:
            self._backend.remove(path)
        else:
            self._held.append(path)

    @contextmanager
    def held_back(self) -> Iterator[set[str]]:
        """Remove at the end what is not in the set; nothing where an error ends it."""
        standing: set[str] = set()
        self._held = []
        try:
            yield standing
            held = [path for path in self._held if path not in standing]
        except BaseException:
            held = []
            raise
        finally:
            self._held = None
        for path in held:
            if self._backend.isfile(path):
                self._backend.remove(path)


def _is_within_epoch(runner: Runner) -> bool:
    length = getattr(runner.train_loop, 'updates_per_epoch', None)
    return length is not None and runner.iter % length != 0
