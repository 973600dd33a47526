"""A training that a tool starts: its folder, its config and its result."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checkpoints.atomic_file import AtomicFileBackend
from ..errors import SettingError
from ..results import Run, read_run
from ..utils.config_text import config_text

# Diverged and NaN runs count as finished.
FINISHED = ('done', 'diverged', 'nan')


@dataclass(frozen=True)
class TrainingJob:
    """One training of a sweep or of a set of branches.

    Args:
        folder (Path): Work folder.
        start (Path, optional): Checkpoint to resume from while the work folder has none.
            Defaults to None.
    """

    folder: Path
    start: Path | None = field(default=None, kw_only=True)

    @property
    def config(self) -> Path:
        """Path: Config, next to the work folder."""
        return self.folder.with_name(f'{self.folder.name}.py')

    @property
    def output(self) -> Path:
        """Path: Output of the processes."""
        return self.folder / 'output.txt'

    @property
    def arguments(self) -> list[str]:
        """list[str]: Arguments of ``train.py``."""
        resume = ['--resume']
        if self.start is not None and not any(self.folder.glob('*.pth')):
            resume.append(str(self.start))
        return [str(self.config), '--work-dir', str(self.folder), *resume]


def write_config(job: TrainingJob, cfg: Config) -> None:
    """Write the config of a training. A training that has started must have the same config.

    Args:
        job (TrainingJob): Training.
        cfg (Config): Its config.

    Raises:
        SettingError: If the training was started with another config.
    """
    if job.config.exists() and job.folder.exists():
        before = Config.fromfile(job.config, import_custom_modules=False)
        for key, old, new in _differences(before.to_dict(), cfg.to_dict()):
            raise SettingError(
                f'--work-dir {job.folder.parent} holds trainings with other settings: {key} is '
                f'{new} now and was {old}. Must be another folder, or the same settings.'
            )
    else:
        job.config.parent.mkdir(parents=True, exist_ok=True)
        AtomicFileBackend().put_text(config_text(cfg), job.config)


def _differences(old: Any, new: Any, key: str = '') -> Iterator[tuple[str, Any, Any]]:
    """Yield the key and both values of each difference between two configs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            where = f'{key}.{name}' if key else name
            yield from _differences(old.get(name), new.get(name), where)
    elif _plain(old) != _plain(new):
        yield key, old, new


def _plain(value: Any) -> Any:
    """Convert tuples to lists, which a command line does not tell apart."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def run_of(job: TrainingJob) -> Run | None:
    """Return the run of a training so far; None if it has logged nothing.

    Args:
        job (TrainingJob): Training.

    Returns:
        Run, optional: Run.
    """
    if not job.folder.is_dir():
        return None
    try:
        return read_run(job.folder)
    except SettingError:
        return None  # Stopped before it logged anything.


def finished_run(job: TrainingJob) -> Run | None:
    """Return the run of a finished training; None if it is not finished.

    Args:
        job (TrainingJob): Training.

    Returns:
        Run, optional: Run.
    """
    run = run_of(job)
    return run if run is not None and run.status in FINISHED else None
