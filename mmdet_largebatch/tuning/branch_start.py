"""The state that branches begin from."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.atomic_file import AtomicFileBackend
from ..checkpoints.finding import checkpoint_defect
from ..checkpoints.optimizer_settings import groups_of
from ..checkpoints.unpickling import load_safely
from ..checks import check, invalid

UPDATES_PER_EPOCH = 'updates_per_epoch'
# Prefixes of names in the message hub of files that belong to the run of the checkpoint.
FILES = ('last_ckpt', 'keep_ckpt_ids', 'best_ckpt')
# Key of the origin in the meta of the file and in the configs of branches.
BRANCH_FROM = 'branch_from'


@dataclass(frozen=True)
class BranchStart:
    """A checkpoint of a training.

    Args:
        path (Path): File.
        epoch (int): Epochs that are done.
        update (int): Updates that are done.
        updates_per_epoch (int, optional): Updates of an epoch; None if unknown.
        lr_factor (float): LR at this update, relative to the LR after the warmup.
    """

    path: Path
    epoch: int
    update: int
    updates_per_epoch: int | None
    lr_factor: float


def read_start(path: Path) -> BranchStart:
    """Read the progress of a checkpoint.

    Args:
        path (Path): File.

    Returns:
        BranchStart: The start.

    Raises:
        SettingError: If it is not a valid checkpoint of a training with its optimizer.
    """
    defect = checkpoint_defect(path)
    check(defect is None, 'CHECKPOINT', str(path), f'a valid checkpoint: {defect}')
    checkpoint = _load(path)
    meta, state = checkpoint.get('meta', {}), checkpoint.get('optimizer') or {}
    wanted = (
        'a checkpoint of a training, with its optimizer; left out, the recipe is warmed up first, '
        'from load_from if that is set'
    )
    check(bool(state) and {'epoch', 'iter'} <= set(meta), 'CHECKPOINT', str(path), wanted)
    epoch, update = meta['epoch'], meta['iter']
    known = _info(checkpoint).get(UPDATES_PER_EPOCH)
    if known is None and epoch and update % epoch == 0:
        known = update // epoch  # MMEngine's hook saves at the end of an epoch.
    bases = [(group.get('initial_lr'), group['lr']) for group in groups_of(state)]
    factor = next((lr / base for base, lr in bases if base), 1.0)
    return BranchStart(Path(path), epoch, update, known, factor)


def carried(start: BranchStart, updates_per_epoch: int, path: Path) -> BranchStart:
    """Carry a start to branches with another number of updates an epoch.

    At an epoch's end the state is the same for any number of updates an epoch. Only the count of
    updates is another.

    Args:
        start (BranchStart): The start.
        updates_per_epoch (int): Updates of an epoch of the branches.
        path (Path): File that :func:`write_start` will write.

    Returns:
        BranchStart: The start of the branches.

    Raises:
        SettingError: If the numbers differ, and the checkpoint is not of an epoch's end.
    """
    update = start.update
    if start.updates_per_epoch != updates_per_epoch:
        if start.epoch * (start.updates_per_epoch or 0) != update:
            wanted = (
                f"of an epoch's end: it is of update {update} of a run with "
                f'{start.updates_per_epoch} updates an epoch, and the branches have '
                f'{updates_per_epoch}'
            )
            raise invalid('CHECKPOINT', str(start.path), wanted)
        update = start.epoch * updates_per_epoch
    return BranchStart(path, start.epoch, update, updates_per_epoch, start.lr_factor)


def origin_of(start: BranchStart, wanted: BranchStart) -> str:
    """Return the origin of branches: their checkpoint, and the update that they count from."""
    origin = f'{start.path.resolve()}, update {start.update}'
    return origin if wanted.update == start.update else f'{origin} as update {wanted.update}'


def read_origin(path: Path) -> str | None:
    """Return the origin of a file of :func:`write_start`; None if unknown."""
    return _load(path).get('meta', {}).get(BRANCH_FROM)


def write_start(start: BranchStart, wanted: BranchStart) -> None:
    """Write the checkpoint that branches resume from, atomically.

    Its schedule is dropped, since branches hold the LR.

    Args:
        start (BranchStart): The start.
        wanted (BranchStart): The start of the branches, from :func:`carried`.
    """
    checkpoint = _load(start.path)
    checkpoint['meta'].update({'iter': wanted.update, BRANCH_FROM: origin_of(start, wanted)})
    checkpoint['param_schedulers'] = [{'update': wanted.update}]
    info = _info(checkpoint)
    info.update({'iter': wanted.update, UPDATES_PER_EPOCH: wanted.updates_per_epoch})
    for name in [name for name in info if name.startswith(FILES)]:
        del info[name]
    content = io.BytesIO()
    torch.save(checkpoint, content)
    AtomicFileBackend().put(content.getvalue(), wanted.path)


def _load(path: Path) -> dict[str, Any]:
    return load_safely(str(path), map_location='cpu')


def _info(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the runtime info of the message hub, a part of the checkpoint."""
    return checkpoint.get('message_hub', {}).get('runtime_info', {})
