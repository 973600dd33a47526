"""MMEngine's checkpoint hook, with checkpoints that are whole or absent."""

import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Union

from mmdet.registry import HOOKS
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..agreement import Agreement
from ..errors import SettingError
from ..training import is_training
from .finding import SAVED_AT, checkpoint_defect, newest_checkpoint
from .whole_file import WholeFileBackend, remove_partial_files

RESTART = 'restart_{}.pth'


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
    ``restart_UPDATE.pth``: every so many minutes, and when :class:`PreemptionHook` asks for it. The
    next checkpoint of any kind replaces it.

    Args:
        every_minutes (float, optional): Minutes after the last save at which the state is saved at
            the end of an update, whatever the interval. It is agreed between the ranks.
            None for never. Defaults to None.
        **kwargs: As for :class:`mmengine.hooks.CheckpointHook`.

    Raises:
        SettingError: If ``every_minutes`` is not above 0; and, when a training begins, if no
            checkpoint of its folder, or not the one that is given, reads whole.
    """

    def __init__(self, *args, every_minutes: Optional[float] = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if every_minutes is not None and not (
            isinstance(every_minutes, (int, float)) and every_minutes > 0
        ):
            raise SettingError(
                f'default_hooks.checkpoint.every_minutes={every_minutes!r}. Must be above 0, or '
                'None for never.'
            )
        self.every_minutes = every_minutes
        self.newest: Optional[str] = None
        self.newest_update = -1
        self._failure: Optional[str] = None

    def before_run(self, runner: Runner) -> None:
        """Choose the checkpoint to resume from, before MMEngine does.

        Args:
            runner (Runner): The runner.

        Raises:
            SettingError: See the class.
        """
        if not is_training(runner) or not runner._resume or runner._has_loaded:
            return
        found: Dict[str, Union[str, List[str], None]] = {}
        if is_main_process():
            found = self._choose(runner)
        found = _from_main_process(found)
        for line in found['passed_over']:
            runner.logger.warning(f'Resume passes over {line}.')
        if found['refused']:
            raise SettingError(found['refused'])
        if found['path'] is None:
            runner.logger.info(
                f'work_dir={runner.work_dir} has no checkpoint: the training begins at update 0.'
            )
            runner._resume = False
        runner._load_from = self.newest = found['path']

    def _choose(self, runner: Runner) -> Dict[str, Union[str, List[str], None]]:
        given = runner._load_from
        if given is not None:
            defect = os.path.isfile(given) and checkpoint_defect(given)
            refused = defect and f'load_from={given}: {defect}. Must be a whole checkpoint.'
            return dict(path=given, passed_over=[], refused=refused)
        folders = [runner.work_dir]
        if self.out_dir is not None:
            folders.append(Path(self.out_dir) / Path(runner.work_dir).name)
        path, passed_over = newest_checkpoint(folders)
        refused = None
        if path is None and passed_over:
            refused = (
                f'work_dir={runner.work_dir}: no checkpoint in it reads whole ('
                f'{"; ".join(passed_over)}). Must have one to resume from; remove them, or do '
                'without --resume, to begin at update 0.'
            )
        return dict(path=path, passed_over=passed_over, refused=refused)

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
        if self._local and is_main_process():
            os.makedirs(self.out_dir, exist_ok=True)
            remove_partial_files(self.out_dir)
        self._agreement = Agreement()
        self._saved_at = time.monotonic()

    def after_train_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
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
            if self._agreement.any(due):
                self.save_now(runner, runner.iter + 1)

    def before_val(self, runner: Runner) -> None:
        """Save before the evaluation of a training that ``max_updates`` cuts short.

        Args:
            runner (Runner): The runner.
        """
        if is_training(runner):
            self._save_cut(runner)

    def _save_cut(self, runner: Runner) -> None:
        if self.save_last and runner.iter == getattr(runner.train_loop, 'max_updates', None):
            self.save_now(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Publish as MMEngine does, and tell if the last state could not be saved.

        Args:
            runner (Runner): The runner.

        Raises:
            SettingError: If the last save failed.
        """
        self._save_cut(runner)
        if self._failure:
            raise SettingError(self._failure)
        super().after_train(runner)

    def save_now(self, runner: Runner, update: int) -> Optional[str]:
        """Save the state between two updates, unless it is saved already.

        Called on every rank.

        Args:
            runner (Runner): The runner.
            update (int): Updates that are finished.

        Returns:
            str, optional: Path of the checkpoint that holds it, None if it could not be saved.
        """
        if self.newest_update != update:
            meta = dict(epoch=runner.epoch, iter=update)
            self._write(runner, RESTART.format(update), meta)
        failure, newest = _from_main_process((self._failure, self.newest))
        return None if failure else newest

    def forget_newest_update(self) -> None:
        """Let the next save be made, also where the newest checkpoint is of the same update."""
        self.newest_update = -1

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the time in the checkpoint.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is to be saved.
        """
        checkpoint['meta'][SAVED_AT] = time.time_ns()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
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
        try:
            with self._removals.held_back():
                super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            self._log_failure(runner, 'the best checkpoint', error)
            for key in [key for key in runner.message_hub.runtime_info if key.startswith('best_')]:
                runner.message_hub.pop_info(key)
                if key in before:
                    runner.message_hub.update_info(key, before[key])

    def _write(self, runner: Runner, filename: str, meta: dict) -> bool:
        """Save, point ``last_checkpoint`` to it and drop the restart file that it replaces."""
        update, path = meta['iter'], self.file_backend.join_path(self.out_dir, filename)
        try:
            runner.save_checkpoint(
                self.out_dir,
                filename,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                pointer = os.path.join(runner.work_dir, 'last_checkpoint')
                WholeFileBackend().put_text(path, pointer)
        except OSError as error:
            self._failure = self._log_failure(runner, path, error)
            return False
        self.newest, self.newest_update = path, update
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
    """A file backend whose removals can be held back until what replaces the file stands."""

    def __init__(self, backend) -> None:
        self._backend = backend
        self._held: Optional[List[str]] = None

    def __getattr__(self, name: str):
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        if self._held is None:
            self._backend.remove(path)
        else:
            self._held.append(path)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Remove at the end; not at all where an error ends it."""
        self._held = []
        try:
            yield
            held = self._held
        except BaseException:
            held = []
            raise
        finally:
            self._held = None
        for path in held:
            if self._backend.isfile(path):
                self._backend.remove(path)


def _from_main_process(value: Any) -> Any:
    """The main process's value, on every rank."""
    values = [value]
    broadcast_object_list(values)
    return values[0]
