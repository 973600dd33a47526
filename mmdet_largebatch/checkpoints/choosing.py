"""Choose the checkpoint that a training resumes from."""

import os
from pathlib import Path
from typing import NamedTuple

from mmengine.dist import is_main_process
from mmengine.runner import Runner

from ..compat import load_from
from ..utils.dist import from_main_process
from .comparing import refusal
from .finding import checkpoint_defect, last_checkpoint, newest_checkpoint
from .first_start import begin_run, first_start


class Choice(NamedTuple):
    """The checkpoint to resume from, the newer invalid ones, and the reason not to resume."""

    path: str | None
    skipped: list[str]
    refused: str | None


def choose_checkpoint(runner: Runner, folders: list[str | Path], pattern: str) -> Choice:
    """Choose the checkpoint to resume from, on the main process for all ranks.

    Args:
        runner (Runner): The runner, before it loads ``load_from``, if that is set.
        folders (list[str or Path]): Folders to search otherwise.
        pattern (str): Names of the run's checkpoints, besides ``*.pth``.

    Returns:
        Choice: The same on every rank.
    """
    choice = _choose(runner, folders, pattern) if is_main_process() else None
    choice = from_main_process(choice)
    if choice.path and '://' in choice.path:
        # MMEngine's loaders of such addresses wait for all ranks.
        choice = choice._replace(refused=refusal(runner, choice.path))
    return choice


def _choose(runner: Runner, folders: list[str | Path], pattern: str) -> Choice:
    given, skipped = load_from(runner), list[str]()
    path = given
    if path is None:
        first, since = first_start(runner.cfg), begin_run(runner)
        path = last_checkpoint(runner.work_dir, since)
        if path is None or '://' not in path:
            path, skipped = newest_checkpoint(folders, pattern, since, path)
        if path is None and skipped and not since:
            line = (
                f'work_dir={runner.work_dir}: it has no valid checkpoint ({"; ".join(skipped)}). '
                'Must have one to resume from; to begin at update 0, remove these files and '
                'last_checkpoint, or omit --resume.'
            )
            return Choice(None, skipped, line)
        if path is None and first.resume:
            given = first.load_from
    if given is not None:
        path = os.path.expanduser(given)
        if '://' not in path and (defect := _defect(path)):
            line = f'load_from={path}: {defect}. Must be a valid checkpoint.'
            return Choice(path, skipped, line)
    refused = None if path is None or '://' in path else refusal(runner, path)
    return Choice(path, skipped, refused)


def _defect(path: str) -> str | None:
    return checkpoint_defect(path) if os.path.isfile(path) else 'no such file'
