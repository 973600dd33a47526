"""Run branches from one state: with several LRs, or with several global batches."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.config import Config

from ..checkpoints import newest_checkpoint
from ..checks import invalid
from ..errors import SettingError
from ..planning import Plan, make_plan
from ..recipes.optimizer import lr_at_batch
from ..results.settings import optimizer_config
from ..schedulers.scaling import SCALE_RULES
from ..utils.type_names import type_name
from .branch_start import (
    BRANCH_FROM,
    BranchStart,
    carried,
    origin_of,
    read_origin,
    read_start,
    write_start,
)
from .branches import Branch, branch_config, quiet
from .branching import Branching
from .comparison import Compared, compare
from .stages import stages
from .training_job import TrainingJob, write_config

# Factors of the recipe's LR, without --lr.
FACTORS = (0.25, 0.5, 1, 2, 4)
# Updates of the warm-up of a recipe that has none.
WARM_UP = 100


def find_start(
    branching: Branching, cfg: Config, checkpoint: Path | None, plan: Plan, at_epoch_end: bool
) -> BranchStart:
    """Read the checkpoint, or warm the recipe up first.

    The warm-up trains the recipe until its LR warmup ends, or for 100 updates if it has none.

    Args:
        branching (Branching): Branches in progress.
        cfg (Config): Recipe.
        checkpoint (Path, optional): Checkpoint to begin from. None to warm up.
        plan (Plan): Plan of the recipe.
        at_epoch_end (bool): Extend the warm-up to an epoch's end.

    Returns:
        BranchStart: The start.
    """
    if checkpoint is not None:
        return read_start(checkpoint)
    updates, per_epoch = plan.warmup_updates or WARM_UP, int(plan.updates_per_epoch)
    if at_epoch_end:
        updates = math.ceil(updates / per_epoch) * per_epoch
    folder = branching.args.work_dir / 'warm_up'
    job, warm_up = TrainingJob(folder), quiet(cfg, folder)
    warm_up.train_cfg.max_updates = min(updates, plan.updates)
    write_config(job, warm_up)
    branching.known.append(job)
    if not branching.is_done(job):
        images = updates * plan.global_batch
        branching.bar.reset(total=images)
        branching.bar.set_description('warm-up')
        branching.train([job], images)
    path, _ = newest_checkpoint([folder])
    if branching.failed or path is None:
        raise SettingError(f'warm_up failed: see {job.output}.')
    return read_start(Path(path))


def branch_over_lrs(
    branching: Branching, cfg: Config, start: BranchStart, plan: Plan, lrs: Sequence[float]
) -> list[Compared]:
    """Train a branch with each LR, and compare them with the best.

    Args:
        branching (Branching): Branches in progress; its ``args`` have ``updates``,
            ``decay_updates`` and ``halving``.
        cfg (Config): Recipe.
        start (BranchStart): State to begin from.
        plan (Plan): Plan of the recipe.
        lrs (Sequence[float]): LRs.

    Returns:
        list[Compared]: The branches. One that was dropped is compared with the best branch of its
        stage.
    """
    args, batch = branching.args, plan.global_batch
    begin = carried(start, int(plan.updates_per_epoch), args.work_dir / 'start.pth')
    whole = len(lrs), args.updates, args.decay_updates
    steps = stages(*whole) if args.halving else [whole]
    counts, ends, decays = zip(*steps, strict=True)
    added = np.diff([0, *ends])
    total = sum(n * (x + y) for n, x, y in zip(counts, added, decays, strict=True))
    branching.bar.reset(total=int(batch * total))
    make = partial(
        Branch,
        batch=batch,
        begin=begin,
        max_epochs=plan.epochs,
        trust=args.trust_checkpoint,
        start=begin.path,
    )
    left, dropped = sorted(lrs), list[Compared]()
    for index, updates in enumerate(ends):
        branches = {lr: make(args.work_dir / f'lr{lr:g}', lr, updates=updates) for lr in left}
        if index == 0:
            _prepare(branching, cfg, start, begin, list(branches.values()))
        branching.bar.set_description(f'stage {index + 1} of {len(steps)}')
        curves = branching.train_and_decay(
            branches, cfg, batch * int(added[index]), batch * decays[index]
        )
        compared = compare(curves)
        if index == len(steps) - 1:
            break
        ranked = sorted(compared, key=lambda one: one.loss)
        ahead = [one for one in ranked[: counts[index + 1]] if not one.diverged] or ranked[:1]
        left = sorted(one.curve.value for one in ahead)
        dropped += [replace(one, whole=False) for one in compared if one.curve.value not in left]
    return sorted([*compared, *dropped], key=lambda one: one.curve.value)


def branch_over_batches(
    branching: Branching,
    cfg: Config,
    start: BranchStart,
    plans: dict[int, Plan],
    lrs: dict[int, float],
) -> list[Compared]:
    """Train a branch with each global batch, and compare them with the smallest.

    All learn from the same number of images.

    Args:
        branching (Branching): Branches in progress; its ``args`` have ``updates`` and
            ``decay_updates``, of the largest batch.
        cfg (Config): Recipe.
        start (BranchStart): State to begin from.
        plans (dict[int, Plan]): Plan of the recipe with each global batch.
        lrs (dict[int, float]): LR of each global batch.

    Returns:
        list[Compared]: The branches.
    """
    args, branches = branching.args, dict[float, Branch]()
    images, decay = args.updates * max(plans), args.decay_updates * max(plans)
    branching.bar.reset(total=(images + decay) * len(plans))
    branching.bar.set_description('branches')
    for batch, plan in plans.items():
        folder = args.work_dir / f'batch{batch}'
        begin = carried(start, int(plan.updates_per_epoch), folder.with_suffix('.pth'))
        branch = Branch(
            folder,
            lrs[batch],
            batch,
            begin,
            updates=round(images / batch),
            max_epochs=plan.epochs,
            trust=args.trust_checkpoint,
            start=begin.path,
        )
        _prepare(branching, cfg, start, begin, [branch])
        branches[batch] = branch
    return compare(branching.train_and_decay(branches, cfg, images, decay), min(plans))


def plans_of_batches(
    cfg: Config, plan: Plan, batches: Sequence[int], ranks: int
) -> dict[int, Plan]:
    """Plan the recipe with each global batch.

    Raises:
        SettingError: If the training would be refused with a batch.
    """
    plans = {}
    for batch in sorted(set(batches)):
        other = cfg.copy()
        other.train_cfg = dict(cfg.train_cfg, global_batch_size=batch)
        plans[batch] = make_plan(other, ranks, plan.images)
    return plans


def lrs_of_batches(
    cfg: Config, lr: float, base: int, batches: Sequence[int], rule: str | None
) -> dict[int, float]:
    """Return the LR of each global batch, by the rule of the optimizer.

    Args:
        cfg (Config): Recipe.
        lr (float): LR at the recipe's batch.
        base (int): The recipe's batch.
        batches (Sequence[int]): Global batches.
        rule (str, optional): ``'linear'`` or ``'sqrt'``; None for the rule of the optimizer.

    Returns:
        dict[int, float]: LRs.

    Raises:
        SettingError: If no rule is known.
    """
    name = type_name(optimizer_config(cfg))
    if rule is None and name not in SCALE_RULES:
        wanted = f'linear or sqrt: no rule is known for the LR of {name}'
        raise invalid('--lr-rule', rule, wanted)
    return {batch: lr_at_batch(cfg, lr, base, batch, name, rule)[0] for batch in batches}


def _prepare(
    branching: Branching,
    cfg: Config,
    start: BranchStart,
    begin: BranchStart,
    branches: Sequence[Branch],
) -> None:
    """Write the configs of branches, and the checkpoint that they resume from.

    Raises:
        SettingError: If the folder has branches of another checkpoint or with other settings.
    """
    origin = origin_of(start, begin)
    if not begin.path.exists():
        write_start(start, begin)
    elif (before := read_origin(begin.path)) != origin:
        raise SettingError(
            f'--work-dir {branching.args.work_dir} holds trainings with other settings: '
            f'{BRANCH_FROM} is {origin} now and was {before}. Must be another folder, or the same '
            'settings.'
        )
    for branch in branches:
        config = branch_config(cfg, branch)
        config[BRANCH_FROM] = origin
        write_config(branch, config)
