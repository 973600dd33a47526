"""The record of a start: what it resolved and how it ended, in one JSON file.

It stands in the folder of the logs, ``<work_dir>/<timestamp>/largebatch.json``. Programs read it
instead of log lines, which are for people and may be reworded. Its names are those of
:class:`mmdet_largebatch.planning.Plan`:

- ``version`` and ``stack`` (name and version of each package), ``ranks``, ``seed``, ``optimizer``,
  ``begins_at`` (updates done before this start);
- of :class:`GlobalBatchTrainLoop`: ``global_batch``, ``micro_batch``, ``micro_batches``,
  ``updates_per_epoch``, ``epochs``, ``updates`` (of the whole schedule), ``max_updates``
  and ``exact_sum``;
- of :class:`WarmupStepLRHook`: ``lr`` (after scaling), ``warmup_updates``, ``milestones`` (in
  updates) and ``gamma``; of :class:`DivergenceHook`: ``rollbacks``;
- ``ended``: None while it runs or where it was killed, else ``how`` (``done``, ``cut``,
  ``stopped early``, ``diverged`` or ``preempted``), ``update``, ``epoch`` and ``message``.
"""

import json
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from mmengine.dist import is_main_process
from mmengine.runner import Runner

from ..checkpoints.atomic_file import AtomicFileBackend

RECORD = 'largebatch.json'
# How a start ended that is not to be resumed.
FINISHED = ('done', 'cut', 'stopped early')
_facts: WeakKeyDictionary[Runner, dict[str, Any]] = WeakKeyDictionary()


def keep_record(runner: Runner) -> None:
    """Add :class:`RunRecordHook` to a run that lacks it.

    Args:
        runner (Runner): The runner, before ``before_train``.
    """
    if 'RunRecordHook' not in {type(hook).__name__ for hook in runner.hooks}:
        runner.register_hook(dict(type='mmdet.RunRecordHook'))


def note(runner: Runner, **facts: Any) -> None:
    """Note facts of a run for its record.

    Args:
        runner (Runner): The runner.
        **facts: Values that JSON holds, by the names that the module lists.
    """
    _facts.setdefault(runner, {}).update(facts)


def write_record(runner: Runner, **facts: Any) -> None:
    """Note facts and write the record, on the main process. A failure is logged.

    Args:
        runner (Runner): The runner.
        **facts: As for :func:`note`.
    """
    note(runner, **facts)
    if not is_main_process():
        return
    path = Path(runner.log_dir) / RECORD
    try:
        AtomicFileBackend().put_text(f'{json.dumps(_facts[runner], indent=1)}\n', path)
    except OSError as error:
        runner.logger.error(f'{path} cannot be written ({error.strerror}).')


def write_end(runner: Runner, how: str, update: int, epoch: int, message: str = '') -> None:
    """Write how a run ended.

    Args:
        runner (Runner): The runner.
        how (str): One of the words that the module lists.
        update (int): Updates that are done; of a divergence, the bad update.
        epoch (int): Epochs that are done; of a divergence, the epoch of the bad update.
        message (str): The line that the run ended with. Defaults to ''.
    """
    write_record(runner, ended=dict(how=how, update=update, epoch=epoch, message=message))


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read the record of a start.

    Args:
        folder (Path): The folder of its logs.

    Returns:
        dict, optional: The record; None where there is none.

    Raises:
        ValueError: If the file is no JSON object.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    if not isinstance(record, dict):
        raise ValueError(f'{path} is no JSON object')
    return record
