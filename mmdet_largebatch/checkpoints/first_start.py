"""The first start of a training that is set to resume, while there is nothing to resume from."""

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from mmengine.runner import Runner

from .atomic_file import AtomicFileBackend
from .finding import POINTER

# Environment: identifies a run, the same at every restart. Set by cli/rendezvous.py and
# tools/slurm_batch.sh.
RUN = 'LARGEBATCH_RUN'
# In the work folder: the run that was begun at a given checkpoint, and when.
FILE = 'first_start.json'


class FirstStart(NamedTuple):
    """Key ``first_start`` of a config that resumes.

    Args:
        load_from (str, optional): Checkpoint to begin from.
        resume (bool): Resume from it; otherwise load its weights and begin at update 0.
            Defaults to False.
        run (str, optional): The run that begins at this checkpoint, whatever else its work folder
            holds. None for a run that begins there only if its work folder has no checkpoint.
            Defaults to None.
    """

    load_from: str | None = None
    resume: bool = False
    run: str | None = None


def first_start(cfg: Config) -> FirstStart:
    """Return the first start of a config."""
    return FirstStart(**(cfg.get('first_start') or {}))


def set_resume_from(cfg: Config, checkpoint: str) -> None:
    """Set a config to resume, as ``--resume`` asks.

    A launcher repeats its command at each restart. Of ``--resume CHECKPOINT`` only the first start
    resumes from this checkpoint, and each restart from the newest one saved since.

    Args:
        cfg (Config): The config, changed in place.
        checkpoint (str): A checkpoint, or ``'auto'`` for the newest of the work folder. Without
            any there, the first start follows the config's own ``load_from`` and ``resume``.
    """
    first, run = first_start(cfg)._replace(run=None), os.environ.get(RUN)
    if checkpoint != 'auto':
        first = FirstStart(checkpoint, True, run) if run else FirstStart()
    elif cfg.get('load_from') is not None:
        first = FirstStart(cfg.load_from, bool(cfg.get('resume')))
    cfg.resume, cfg.load_from = True, None if checkpoint == 'auto' or run else checkpoint
    cfg.pop('first_start', None)
    if first.load_from is not None:
        cfg.first_start = first._asdict()


def is_begun(cfg: Config) -> bool:
    """Return True if a run has taken its first start, and needs its checkpoint no more."""
    run = first_start(cfg).run
    if run is not None:
        return _begun_at(cfg.work_dir, run) is not None
    return Path(cfg.work_dir, POINTER).exists()


def begin_run(runner: Runner) -> int:
    """Note the first start of a run that begins at a given checkpoint. Called on the main process.

    Args:
        runner (Runner): The runner, before it loads anything.

    Returns:
        int: Time in ns since 1970. Only checkpoints saved since then belong to the run.
    """
    run = first_start(runner.cfg).run
    if run is None:
        return 0
    begun = _begun_at(runner.work_dir, run)
    if begun is None:
        begun = time.time_ns()
        text = json.dumps(dict(run=run, time=begun))
        AtomicFileBackend().put_text(text, Path(runner.work_dir, FILE))
    return begun


def _begun_at(work_dir: str, run: str) -> int | None:
    path = Path(work_dir, FILE)
    if not path.is_file():
        return None
    noted = json.loads(path.read_text())
    return noted['time'] if noted['run'] == run else None
