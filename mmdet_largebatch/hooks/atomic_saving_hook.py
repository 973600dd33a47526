"""Save checkpoints atomically, and remove outdated ones afterwards."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..checkpoints.atomic_file import AtomicFileBackend, remove_partial_files
from ..checkpoints.best_metrics import check_names, with_absent
from ..compat import train_loop
from ..utils.runner import find_hook, repeats_epochs

RESTART = 'restart_{}.pth'


class AtomicSavingHook(CheckpointHook):
    """MMEngine's checkpoint hook with atomic saves, the base of :class:`AtomicCheckpointHook`.

    MMEngine decides when a checkpoint is due. :meth:`write` writes every checkpoint that a training
    can resume from. A failed save is logged as an error, and the training continues.

    Args:
        *args: As for :class:`mmengine.hooks.CheckpointHook`.
        **kwargs: As for :class:`mmengine.hooks.CheckpointHook`.
    """

    backend_args: dict[str, Any] | None
    file_backend: Any
    keep_ckpt_ids: list[int]
    last_ckpt: str | None
    max_keep_ckpts: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The newest checkpoint to resume from, and the updates that it holds; -1 for unknown.
        self.newest: str | None = None
        self.newest_update = -1
        # True if the newest checkpoint holds the optimizer and the schedulers.
        self.newest_is_complete = False
        self.failure: str | None = None
        self.saved_at = time.monotonic()
        self._writing = False
        # Epochs and updates that were done as the current update began.
        self._begun = (-1, -1)
        # While the best weights are saved: the checkpoint of before the evaluation.
        self._before_evaluation: str | None = None

    def before_train(self, runner: Runner) -> None:
        """Prepare the folder."""
        backend = get_file_backend(self.out_dir or runner.work_dir, backend_args=self.backend_args)
        if type(backend) is LocalBackend and self.file_client_args is None:
            self.backend_args = dict(backend='whole_file')
        # With a smaller max_keep_ckpts MMEngine removes checkpoints before a new one stands.
        limit, self.max_keep_ckpts = self.max_keep_ckpts, -1
        self._forget_best_of_other_metric(runner)
        super().before_train(runner)
        self.max_keep_ckpts = limit
        self._recall_kept(runner)
        check_names(runner, self.save_best or [])
        if self._is_local and is_main_process():
            os.makedirs(self.out_dir, exist_ok=True)
            remove_partial_files(self.out_dir)
        self.saved_at = time.monotonic()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note that an update begins."""
        self._begun = (runner.epoch, runner.iter)

    def in_update(self, runner: Runner) -> bool:
        """Return True from the begin of an update until the loop counts it.

        Under a loop that repeats an epoch that it resumes within, this holds for epochs instead.
        """
        epoch, update = self._begun
        return runner.epoch == epoch if repeats_epochs(runner) else runner.iter == update

    def write(
        self, runner: Runner, filename: str, meta: dict[str, int], complete: bool = False
    ) -> bool:
        """Write a checkpoint to resume from, and the pointer ``last_checkpoint``.

        Args:
            runner (Runner): The runner.
            filename (str): Name of the file in ``out_dir``.
            meta (dict[str, int]): ``epoch`` and ``iter``, epochs and updates that are done.
            complete (bool): Save optimizer and schedulers whatever the settings say.
                Defaults to False.

        Returns:
            bool: False if the main process failed to write; True on the other ranks.
        """
        path = self.file_backend.join_path(self.out_dir, filename)
        self._writing = True
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
            self.failure = self._log_failure(runner, path, error)
            return False
        finally:
            self._writing = False
        before, self.newest, self.newest_update = self.newest, path, meta['iter']
        self.newest_is_complete = complete or (self.save_optimizer and self.save_param_scheduler)
        self.failure, self.saved_at = None, time.monotonic()
        self._remove_restart_files(runner, before)
        return True

    def _remove_restart_files(self, runner: Runner, before: str | None) -> None:
        """Remove the restart files that no hook of the run calls its newest checkpoint.

        Args:
            runner (Runner): The runner.
            before (str, optional): The newest checkpoint before this save.
        """
        own = self.file_backend.join_path(self.out_dir, RESTART.split('{')[0])
        outdated = [before] if before and before.startswith(own) else []
        if self._is_local:
            # Also of earlier starts.
            outdated = [str(path) for path in Path(self.out_dir).glob(RESTART.format('*'))]
        hooks = [hook for hook in runner.hooks if isinstance(hook, AtomicSavingHook)]
        needed = {os.path.basename(hook.newest) for hook in hooks if hook.newest}
        for path in outdated:
            if os.path.basename(path) not in needed:
                self._remove(path)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Write a checkpoint of an interval, then remove the ones that it outdates."""
        length = getattr(runner.train_loop, 'updates_per_epoch', None)
        if self.by_epoch and length and runner.iter % length:
            # The evaluation of an epoch that is cut short found the best weights.
            self.write(runner, RESTART.format(runner.iter), meta, complete=True)
            return
        kept: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [*(other for other in self.keep_ckpt_ids if other != step), step]
            self.keep_ckpt_ids = kept[-self.max_keep_ckpts :]
            runner.message_hub.update_info(self._kept_key(runner), self.keep_ckpt_ids)
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        if self.write(runner, filename, meta):
            outdated = set(map(self.filename_tmpl.format, kept[: -self.max_keep_ckpts]))
            # All steps have one name if the template has no {}.
            for name in outdated - set(map(self.filename_tmpl.format, self.keep_ckpt_ids)):
                self._remove(self.file_backend.join_path(self.out_dir, name))
        else:
            # The next save that succeeds removes them.
            self.keep_ckpt_ids = kept[:-1]

    def _recall_kept(self, runner: Runner) -> None:
        """Recall the steps of the kept checkpoints, unless the run resumed from another folder."""
        first = find_hook(runner, AtomicSavingHook) or self
        owns = first.newest is None or first._owns(first.newest)
        kept = runner.message_hub.runtime_info.get(self._kept_key(runner), [])
        self.keep_ckpt_ids = list(kept) if owns else []

    def _kept_key(self, runner: Runner) -> str:
        """Return the key of the kept steps in the message hub: MMEngine's for the first hook."""
        first = find_hook(runner, CheckpointHook) is self
        return 'keep_ckpt_ids' if first else f'keep_ckpt_ids_{self.filename_tmpl}'

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best weights, then remove the previous best checkpoint."""
        if self.save_best is None:
            return
        metrics = with_absent(runner, self.key_indicators, metrics)
        info = runner.message_hub.runtime_info
        before = {key: value for key, value in info.items() if key.startswith('best_')}
        # MMEngine removes the previous best checkpoint before it writes, if it knows its path.
        self._set_best_paths({})
        # Resumed from a checkpoint of this update, GlobalBatchTrainLoop repeats the evaluation.
        repeats = hasattr(train_loop(runner), 'end') and self.newest_update == runner.iter
        self._before_evaluation = self.newest if repeats else None
        last = self.last_ckpt
        if self.in_update(runner):
            # MMEngine would save the last checkpoint again, with the weights of this update.
            self.last_ckpt = None
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            self._log_failure(runner, 'the best checkpoint', error)
            for key in [key for key in info if key.startswith('best_')]:
                del info[key]
            info.update(before)
        finally:
            self._before_evaluation, self.last_ckpt = None, self.last_ckpt or last
        self._set_best_paths(info)
        # An epoch that is cut short twice has two best checkpoints of one name.
        paths = [value for key, value in info.items() if key.startswith('best_ckpt')]
        standing = set(map(os.path.basename, paths))
        for key, path in before.items():
            outdated = key.startswith('best_ckpt') and os.path.basename(path) not in standing
            if outdated and self._owns(path):
                self._remove(path)
                runner.logger.info(f'The previous best checkpoint {path} is removed')

    def _forget_best_of_other_metric(self, runner: Runner) -> None:
        """Forget a best score that was of another ``save_best``. Its checkpoint stays."""
        info = runner.message_hub.runtime_info
        path = info.get('best_ckpt')
        if self.save_best is None or len(self.key_indicators) != 1 or not path:
            return
        (name,) = self.key_indicators
        begin = f'best_{name}_'.replace('/', '_')
        # The name of a metric may begin with that of another.
        files = re.escape(begin) + re.sub(r'\\\{.*?\\\}', '.*', re.escape(self.filename_tmpl))
        if name != 'auto' and not re.fullmatch(files, os.path.basename(path)):
            del info['best_ckpt']
            info.pop('best_score', None)
            runner.logger.warning(
                f'Resume: {path} is the best by another metric: the best by {name} begins anew.'
            )

    def _set_best_paths(self, info: Mapping[str, Any]) -> None:
        if self.save_best is not None and len(self.key_indicators) == 1:
            self.best_ckpt_path = info.get('best_ckpt')
        elif self.save_best is not None:
            self.best_ckpt_path_dict = {
                key: info.get(f'best_ckpt_{key}') for key in self.key_indicators
            }

    def _log_failure(self, runner: Runner, what: str, error: OSError) -> str:
        line = (
            f'{what} could not be saved ({error.strerror or error}). The newest valid checkpoint '
            f'is {self.newest or "none yet"}. Must have room and permission to write in '
            f'{self.out_dir}.'
        )
        runner.logger.error(line)
        return line

    @property
    def _is_local(self) -> bool:
        return (self.backend_args or {}).get('backend') == 'whole_file'

    def _owns(self, path: str) -> bool:
        """Return True for a file in ``out_dir``. A run may resume from one of another folder."""
        return Path(path).parent.resolve() == Path(self.out_dir).resolve()

    def _remove(self, path: str) -> None:
        if is_main_process() and self._owns(path) and self.file_backend.isfile(path):
            self.file_backend.remove(path)
