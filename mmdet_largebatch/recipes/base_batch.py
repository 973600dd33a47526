"""Find the global batch that a config is written for."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checks import check, check_positive_integer, invalid
from ..results.settings import iterations_per_update
from ..utils.type_names import type_name

# RANKSxbIMAGES, as in dino-4scale_r50_8xb2-12e_coco.py.
IN_NAME = re.compile(r'(?<![0-9A-Za-z])(\d+)xb(\d+)(?![0-9A-Za-z])')
# Of `auto_scale_lr` in MMDetection's schedules, which other configs inherit.
SCHEDULES_BATCH, SCHEDULES_RANKS = 16, 8


@dataclass(frozen=True)
class Batches:
    """The old and the new global batch.

    Args:
        base (int): Images of an update in the old recipe.
        new (int): Images of an update in the new recipe.
        per_iteration (int): Images of an iteration of the old train loop. Fewer than ``base`` with
            ``accumulative_counts``.
        source (str): Where ``base`` was found.
        doubt (str): Why ``base`` may not be the batch that the LR is meant for. Defaults to ''.
    """

    base: int
    new: int
    per_iteration: int
    source: str
    doubt: str = ''

    @property
    def iterations_ratio(self) -> float:
        """float: Iterations of the old train loop with the images of one new update."""
        return self.new / self.per_iteration


def find_batches(cfg: Config, new: int, base: int | None = None) -> Batches:
    """Find the old global batch, and check the new one.

    The old global batch is the first of: ``base``, ``train_cfg.global_batch_size``,
    ``auto_scale_lr.base_batch_size`` and the ``8xb2`` of the file's name. The last two are
    multiplied by ``optim_wrapper.accumulative_counts``. If they differ, the name is taken where it
    fits ``train_dataloader.batch_size`` better: its second number is this size, or its product
    alone is a multiple of it. RTMDet's configs inherit an ``auto_scale_lr`` of 16 for their batch
    of 256. A number that does not fit ``train_dataloader.batch_size`` is in doubt.

    Args:
        cfg (Config): The config.
        new (int): Images of an update of the new recipe.
        base (int, optional): Images of an update of the old recipe. Defaults to None.

    Returns:
        Batches: Both batches.

    Raises:
        SettingError: If the new batch is no multiple of the micro-batch, or nothing says the old
            one but a name that does not fit it.
    """
    micro_batch: Any = (cfg.get('train_dataloader') or {}).get('batch_size')
    check_positive_integer('train_dataloader.batch_size', micro_batch)
    check_positive_integer('global_batch', new)
    wanted = f'a multiple of train_dataloader.batch_size={micro_batch}, the micro-batch'
    if new % micro_batch and new > micro_batch:
        wanted += f', such as {new // micro_batch * micro_batch}'
    check(new % micro_batch == 0, 'global_batch', new, wanted)
    counts = iterations_per_update(cfg)
    if base is not None:
        check_positive_integer('base_batch', base)
        return Batches(base, new, max(1, base // counts), '--base-batch')
    if type_name(cfg.get('train_cfg')) == 'GlobalBatchTrainLoop':
        base = cfg.train_cfg.get('global_batch_size')
        check_positive_integer('train_cfg.global_batch_size', base)
        assert base is not None
        return Batches(base, new, base, 'train_cfg.global_batch_size')
    per_iteration, source, doubt = _written_batch(cfg, micro_batch)
    if counts > 1:
        source += f', times optim_wrapper.accumulative_counts={counts}'
    if doubt:
        doubt += f'. Give --base-batch if the LR is not meant for batch {per_iteration * counts}'
    return Batches(per_iteration * counts, new, per_iteration, source, doubt)


def _written_batch(cfg: Config, micro_batch: int) -> tuple[int, str, str]:
    """Return the images of an iteration, where the config says them, and the reason for a doubt."""
    stock = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    name = Path(cfg.filename).name if cfg.filename else ''
    found = IN_NAME.search(Path(name).stem)
    fits = found is not None and int(found[2]) == micro_batch
    doubt = ''
    if found is not None and not fits:
        doubt = f"{found[0]} in the file's name says {found[2]} images a rank"
    if stock is not None:
        check_positive_integer('auto_scale_lr.base_batch_size', stock)
        if found is None or not _fits_better(found, stock, micro_batch):
            if stock == SCHEDULES_BATCH != micro_batch * SCHEDULES_RANKS and not fits:
                doubt = doubt or (
                    f"MMDetection's schedules say auto_scale_lr.base_batch_size={stock}, of "
                    f'{SCHEDULES_RANKS} ranks with {stock // SCHEDULES_RANKS} images'
                )
            return stock, 'auto_scale_lr.base_batch_size', doubt
    if found is not None and (fits or stock is not None):
        source = f"{found[0]} in the file's name"
        if stock is not None:
            source += f', not auto_scale_lr.base_batch_size={stock}'
        return int(found[1]) * int(found[2]), source, doubt
    reason = (
        f'{name or "the config"} has neither auto_scale_lr.base_batch_size nor a name with 8xb2'
    )
    if doubt:
        reason = f'{doubt}, and train_dataloader.batch_size is {micro_batch}'
    wanted = f'given by --base-batch, the images of an update that the LR is meant for: {reason}'
    raise invalid('base_batch', None, wanted)


def _fits_better(named: re.Match, stock: int, micro_batch: int) -> bool:
    """Return True if a file's name is another batch than ``auto_scale_lr``, and rather the one."""
    batch = int(named[1]) * int(named[2])
    alone = batch % micro_batch == 0 and stock % micro_batch != 0
    return batch != stock and (int(named[2]) == micro_batch or alone)
