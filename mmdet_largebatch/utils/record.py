"""Write and read ``largebatch.json``: the settings that a run resolved, and its end.

Each start of a run writes ``<work_dir>/<timestamp>/largebatch.json``. Programs read this file;
log lines are for people and may be reworded. The names are those of
:class:`mmdet_largebatch.planning.Plan`:

- ``version`` and ``stack`` (name and version of each package), ``ranks``, ``seed``, ``optimizer``,
  ``begins_at`` (updates done before this start);
- of :class:`GlobalBatchTrainLoop`: ``global_batch``, ``micro_batch``, ``micro_batches``,
  ``updates_per_epoch``, ``epochs``, ``updates`` (of the whole schedule), ``max_updates``
  and ``exact_sum``;
- of :class:`WarmupStepLRHook`: ``lr`` (after scaling), ``warmup_updates``, ``milestones`` (in
  updates) and ``gamma``; of :class:`DivergenceHook`: ``rollbacks``;
- ``ended``: None while the run continues or if it was killed; otherwise ``how`` (``done``, ``cut``,
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
# Values of `how` after which there is nothing to resume.
FINISHED = ('done', 'cut', 'stopped early')
_facts: WeakKeyDictionary[Runner, dict[str, Any]] = WeakKeyDictionary()


def keep_record(runner: Runner) -> None:
    """Add :class:`RunRecordHook` to a run that lacks it, before ``before_train``."""
    if 'RunRecordHook' not in {type(hook).__name__ for hook in runner.hooks}:
        runner.register_hook(dict(type='mmdet.RunRecordHook'))


def note(runner: Runner, **facts: Any) -> None:
    """Add JSON values, by the names above, to the record of a run."""
    _facts.setdefault(runner, {}).update(facts)


def write_record(runner: Runner, **facts: Any) -> None:
    """Add values and write the record, on the main process. A failed write is logged."""
    note(runner, **facts)
    if not is_main_process():
        return
    path = Path(runner.log_dir) / RECORD
    try:
        AtomicFileBackend().put_text(f'{json.dumps(_facts[runner], indent=1)}\n', path)
    except OSError as error:
        runner.logger.error(f'{path} cannot be written ({error.strerror}).')


def write_end(runner: Runner, how: str, update: int, epoch: int, message: str = '') -> None:
    """Write the end of a run into its record.

    Args:
        runner (Runner): The runner.
        how (str): One of the words of this module's list.
        update (int): Updates that are done; the bad update of a divergence.
        epoch (int): Epochs that are done; the epoch of the bad update of a divergence.
        message (str): The last line of the run. Defaults to ''.
    """
    write_record(runner, ended=dict(how=how, update=update, epoch=epoch, message=message))


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read the record in a folder of logs; None if there is none.

    Raises:
        ValueError: If the file is not a JSON object.
    """
    path = folder / RECORD
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    if not isinstance(record, dict):
        raise ValueError(f'{path} is not a JSON object')
    return record
