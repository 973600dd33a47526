"""Train branches from one state: with several LRs, or with several global batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.config import Config

from ..checkpoints import newest_checkpoint
from ..checks import invalid
from ..errors import SettingError
from ..planning import Plan, make_plan
from ..recipes.optimizer import lr_at_batch
from ..results import Run
from ..results.settings import optimizer_config
from ..schedulers.scaling import SCALE_RULES
from ..utils.record import FINISHED
from ..utils.type_names import type_name
from .branch_start import BranchStart, carried, read_start, write_start
from .branches import Branch, branch_config, make_branch, quiet
from .comparison import Curve, compare
from .training_job import TrainingJob, run_of, write_config
from .trainings import Trainings

# Factors of the recipe's LR, without --lr.
FACTORS = (0.25, 0.5, 1, 2, 4)
# Updates of the warm-up of a recipe that has none.
WARM_UP = 100
# No stage of halving is shorter, so that each block of a comparison has an update.
SHORTEST = 20


@dataclass
class Branching(Trainings):
    """Branches in progress."""

    def is_done(self, job: TrainingJob) -> bool:
        """Return True if a training made its updates, or diverged."""
        run = run_of(job)
        if run is None:
            return False
        if run.status in ('diverged', 'nan'):
            return True
        if not isinstance(job, Branch):
            return run.ended.get('how') in FINISHED
        return bool(run.updates) and run.updates[-1].update >= job.end

    def summary(self, run: Run) -> str:
        """Return the last loss of a run, or its divergence."""
        if run.status in ('diverged', 'nan'):
            return run.status_text
        return f'update {run.updates[-1].update}, loss {run.updates[-1].loss:.4g}'

    def train_branches(self, branches: Sequence[Branch], images: int) -> None:
        """Train branches up to their ends.

        Args:
            branches (Sequence[Branch]): Branches.
            images (int): Images that each has to learn from, in this stage.

        Raises:
            SettingError: If a branch failed, or refused its settings.
        """
        self.known = [job for job in self.known if job.folder not in {x.folder for x in branches}]
        self.known += branches
        waiting = [branch for branch in branches if not self.is_done(branch)]
        self.bar.update(images * (len(branches) - len(waiting)))
        self.train(waiting, images)
        if self.failed:
            job = self.failed[0]
            raise SettingError(f'{job.folder.name} failed: see {job.output}.')

    def curve(self, branch: Branch, value: float) -> Curve:
        """Return the losses of a finished branch up to its end.

        Args:
            branch (Branch): Branch.
            value (float): Its LR or batch.

        Returns:
            Curve: The losses.
        """
        run = run_of(branch)
        assert run is not None
        logged = [one for one in run.updates if branch.begin.update < one.update <= branch.end]
        losses = np.array([np.nan if one.loss is None else one.loss for one in logged])
        broken = run.status == 'diverged' or not np.isfinite(losses).all()
        return Curve(value, branch.lr, branch.batch, losses, broken)


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
) -> list[Curve]:
    """Train a branch with each LR.

    Args:
        branching (Branching): Branches in progress; its ``args`` have ``updates`` and ``halving``.
        cfg (Config): Recipe.
        start (BranchStart): State to begin from.
        plan (Plan): Plan of the recipe.
        lrs (Sequence[float]): LRs.

    Returns:
        list[Curve]: The losses of each branch, fewer for one that was dropped.
    """
    args, batch = branching.args, plan.global_batch
    begin = carried(start, int(plan.updates_per_epoch), args.work_dir / 'start.pth')
    make = partial(make_branch, batch=batch, begin=begin, max_epochs=plan.epochs)
    plans = stages(len(lrs), args.updates) if args.halving else [(len(lrs), args.updates)]
    left, done = sorted(lrs), 0
    curves: dict[float, Curve] = {}
    branching.bar.reset(total=batch * sum(n * x for n, x in increments(plans)))
    branches = {lr: make(folder=args.work_dir / f'lr{lr:g}', lr=lr, updates=1) for lr in left}
    _prepare(branching, cfg, start, begin, list(branches.values()))
    for index, (kept, updates) in enumerate(plans):
        left = left[:kept]
        stage = {lr: make(folder=branches[lr].folder, lr=lr, updates=updates) for lr in left}
        branching.bar.set_description(f'stage {index + 1} of {len(plans)}')
        branching.train_branches(list(stage.values()), batch * (updates - done))
        curves |= {lr: branching.curve(branch, lr) for lr, branch in stage.items()}
        compared = [one for one in compare([curves[lr] for lr in left]) if not one.diverged]
        left = [one.curve.value for one in sorted(compared, key=lambda one: one.loss)]
        done = updates
    return list(curves.values())


def branch_over_batches(
    branching: Branching,
    cfg: Config,
    start: BranchStart,
    plans: dict[int, Plan],
    lrs: dict[int, float],
) -> list[Curve]:
    """Train a branch with each global batch, all for the same number of images.

    Args:
        branching (Branching): Branches in progress; its ``args`` have ``updates``, of the largest
            batch.
        cfg (Config): Recipe.
        start (BranchStart): State to begin from.
        plans (dict[int, Plan]): Plan of the recipe with each global batch.
        lrs (dict[int, float]): LR of each global batch.

    Returns:
        list[Curve]: The losses of each branch.
    """
    args, branches = branching.args, []
    images = args.updates * max(plans)
    branching.bar.reset(total=images * len(plans))
    branching.bar.set_description('branches')
    for batch, plan in plans.items():
        folder = args.work_dir / f'batch{batch}'
        begin = carried(start, int(plan.updates_per_epoch), folder.with_suffix('.pth'))
        updates = round(images / batch)
        branch = make_branch(folder, lrs[batch], batch, begin, updates, plan.epochs)
        _prepare(branching, cfg, start, begin, [branch])
        branches.append(branch)
    branching.train_branches(branches, images)
    return [branching.curve(branch, branch.batch) for branch in branches]


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
    """Write the configs of branches, and the checkpoint that they resume from."""
    for branch in branches:
        config = branch_config(cfg, branch)
        # Branches of another checkpoint are other trainings.
        config.branch_from = f'{start.path.resolve()}, update {start.update}'
        write_config(branch, config)
    if not begin.path.exists():
        write_start(start, begin)
    branching.known += branches


def increments(plans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the branches of each stage, and the updates that it adds to each."""
    ends = [0, *(updates for _, updates in plans)]
    return [(kept, end - before) for (kept, end), before in zip(plans, ends, strict=False)]


def stages(count: int, updates: int) -> list[tuple[int, int]]:
    """Return the stages of halving.

    Args:
        count (int): Branches.
        updates (int): Updates of a whole branch.

    Returns:
        list[tuple[int, int]]: For each stage the number of branches, and the update at which it
        ends. Each stage has half the branches of the stage before, rounded up, and twice the
        updates.

    Example:
        >>> stages(7, 100)
        [(7, 25), (4, 50), (2, 100)]
    """
    counts = [count]
    while counts[-1] > 2 and updates / 2 ** len(counts) >= SHORTEST:
        counts.append(math.ceil(counts[-1] / 2))
    last = len(counts) - 1
    return [(kept, updates // 2 ** (last - index)) for index, kept in enumerate(counts)]
