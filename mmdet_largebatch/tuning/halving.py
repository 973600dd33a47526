"""Successive halving: which runs come next, from the APs that are known.

1. Each pair of LR and warmup is trained with the first seed for a quarter of the updates.
   While the best LR is at an edge of the grid, the grid gets one more LR beyond that edge.
2. The best 3 pairs are trained in full with the first seed.
3. The best 2 of these are trained in full with the second seed.

The winner is the pair with the higher AP on the worse of its two seeds. Of equal pairs, the pair
with the higher AP in the stage before wins.

A quarter-run has the whole LR schedule of the recipe, four times as short: milestones, number of
epochs and the epochs of hooks are divided by 4, and the warmup is unchanged. A run that is cut off
at a quarter of the schedule would not have reached the LR decay, so its AP would favour LRs that
are too low: a high LR gains most of its AP at the decay. A short schedule in turn favours high LRs.
The second stage corrects that among the best 3 pairs, by full runs.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from math import ceil
from numbers import Integral
from typing import Any, NamedTuple

from mmengine.config import Config

from ..checks import check, is_number
from ..errors import SettingError
from ..results.run_rows import Row
from ..results.settings import evaluates_last_epoch, hooks_of, lr_hook

# A quarter-run is this many times as short as a full run.
SHORTER = 4
KEPT_IN_FULL = 3
KEPT_FOR_SECOND_SEED = 2
# LRs added beyond the edges of the grid, at most.
MOST_ADDED = 2
# Ends of the names of what hooks count: a number of epochs, and the epoch at which they begin.
LENGTHS, BEGINS = ('_epochs', '_iters'), ('_epoch', '_iter')
# Score of a run that diverged.
FAILED = -1.0


class Point(NamedTuple):
    """One run of successive halving.

    Args:
        lr (float): LR after the warmup.
        warmup (int): Length of the warmup in updates.
        seed (int): Seed.
        full (bool): True for a full run, False for a quarter-run.
    """

    lr: float
    warmup: int
    seed: int
    full: bool

    @property
    def cost(self) -> int:
        """int: Length of the run in quarter-runs."""
        return SHORTER if self.full else 1


Scores = Mapping[Point, float]


class Halving:
    """Choose the runs of successive halving.

    The choice is a pure function of the scores, so a sweep continues from a table of runs alone.

    Args:
        lrs (Sequence[float]): LRs, at least one.
        warmups (Sequence[int]): Lengths of the warmup in updates, at least one.
        seeds (Sequence[int]): Two seeds.

    Examples:
        >>> halving = Halving([0.1, 0.2, 0.4], [0], [0, 1])
        >>> [point.lr for point in halving.missing({})]
        [0.1, 0.2, 0.4]
    """

    def __init__(self, lrs: Sequence[float], warmups: Sequence[int], seeds: Sequence[int]) -> None:
        check(len(set(seeds)) == 2, '--seeds', list(seeds), 'two seeds with --halving')
        check(bool(lrs), '--lr', list(lrs), 'given with --halving')
        check(bool(warmups), '--warmup-iters', list(warmups), 'given with --halving')
        self.lrs = sorted(set(lrs))
        self.warmups = sorted(set(warmups))
        self.seeds = list(seeds)

    def missing(self, scores: Scores) -> list[Point]:
        """Return the runs that can be trained now; empty if the winner is known.

        Args:
            scores (Mapping[Point, float]): Score of each finished run, from :func:`score`.

        Returns:
            list[Point]: Runs of the first unfinished stage that have no score.
        """
        for stage in self._stages(scores):
            missing = [point for point in stage if point not in scores]
            if missing:
                return missing
        return []

    def remaining_cost(self, scores: Scores) -> int:
        """Return the length of the runs without a score, in quarter-runs, if the grid stays."""
        stages = self._stages(scores)
        kept = min(KEPT_IN_FULL, len(stages[0]))
        again = min(KEPT_FOR_SECOND_SEED, kept)
        planned = [len(stages[0]), SHORTER * kept, SHORTER * again]
        done = sum(point.cost for stage in stages for point in stage if point in scores)
        return sum(planned) - done

    def winner(self, scores: Scores) -> tuple[float, int]:
        """Return LR and warmup of the winner. No run may be missing."""
        again = self._stages(scores)[2]
        worse = [min(scores[point], scores[self._first_seed(point)]) for point in again]
        best = again[worse.index(max(worse))]
        return best.lr, best.warmup

    def grid(self, scores: Scores) -> list[float]:
        """Return the LRs, with the LRs added beyond the edges."""
        lrs = list(self.lrs)
        for _ in range(MOST_ADDED):
            quarters = self._quarters(lrs)
            if len(lrs) < 2 or any(point not in scores for point in quarters):
                break
            best = self._ranked(quarters, scores, lrs)[0].lr
            if best == lrs[0]:
                lrs.insert(0, _rounded(lrs[0] ** 2 / lrs[1]))
            elif best == lrs[-1]:
                lrs.append(_rounded(lrs[-1] ** 2 / lrs[-2]))
            else:
                break
        return lrs

    def _stages(self, scores: Scores) -> list[list[Point]]:
        """Return the runs of each stage. A stage is empty until the stage before is finished."""
        lrs = self.grid(scores)
        quarters = self._quarters(lrs)
        if any(point not in scores for point in quarters):
            return [quarters, [], []]
        best = self._ranked(quarters, scores, lrs)[:KEPT_IN_FULL]
        full = [point._replace(full=True) for point in best]
        if any(point not in scores for point in full):
            return [quarters, full, []]
        # sorted() keeps the order of the stage before for equal APs.
        best = sorted(full, key=lambda point: -scores[point])[:KEPT_FOR_SECOND_SEED]
        return [quarters, full, [point._replace(seed=self.seeds[1]) for point in best]]

    def _quarters(self, lrs: Sequence[float]) -> list[Point]:
        return [Point(lr, warmup, self.seeds[0], False) for lr in lrs for warmup in self.warmups]

    def _ranked(self, points: list[Point], scores: Scores, lrs: list[float]) -> list[Point]:
        """Return the points, best first; of equal points the one nearer to the grid's middle."""
        middle = (len(lrs) - 1) / 2
        return sorted(points, key=lambda x: (-scores[x], abs(lrs.index(x.lr) - middle)))

    def _first_seed(self, point: Point) -> Point:
        return point._replace(seed=self.seeds[0])


def score(row: Row) -> float:
    """Return the box AP of a finished run, ``FAILED`` if it diverged.

    Args:
        row (Row): Row of the run.

    Returns:
        float: Score.

    Raises:
        SettingError: If the run was trained to its end and has no box AP.
    """
    if row.status != 'done':
        return FAILED
    if row.box_ap is None:
        key = row.key
        raise SettingError(
            f'--halving compares box APs. The training with LR {key.lr:g}, warmup {key.warmup}, '
            f'seed {key.seed} and {key.epochs} epochs has none. Must be measured by val_evaluator, '
            "such as CocoMetric with metric='bbox'."
        )
    return row.box_ap


def _rounded(lr: float) -> float:
    """Return an LR without the noise of float division."""
    return float(f'{lr:.6g}')


def quarter_of(cfg: Config) -> Config:
    """Return a recipe with a schedule four times as short, evaluated after the last epoch.

    Args:
        cfg (Config): Recipe; not changed.

    Returns:
        Config: Copy with a quarter of the epochs, of each milestone, and of what hooks count in
        epochs or updates of the training, such as ``switch_epoch``. The warmup is unchanged.

    Raises:
        SettingError: If the number of epochs is no multiple of 4, the recipe has no
            ``WarmupStepLRHook``, or its last epoch is not evaluated.
    """
    cfg = deepcopy(cfg)
    wanted = 'with --halving, which compares the APs of the last epoch'
    check(cfg.get('val_dataloader') is not None, 'val_dataloader', None, f'set {wanted}')
    epochs = cfg.train_cfg.get('max_epochs')
    ok = isinstance(epochs, int) and epochs % SHORTER == 0
    check(ok, 'train_cfg.max_epochs', epochs, f'a multiple of {SHORTER} with --halving')
    begin = cfg.train_cfg.get('val_begin')
    check(evaluates_last_epoch(cfg), 'train_cfg.val_begin', begin, f'<= {epochs} {wanted}')
    hook = lr_hook(cfg)
    if not hook:
        raise SettingError("--halving needs default_hooks.lr of type 'WarmupStepLRHook'.")
    hook.update(milestones=[epoch / SHORTER for epoch in hook.get('milestones', ())])
    cfg.train_cfg.update(max_epochs=epochs // SHORTER, val_interval=epochs // SHORTER)
    for name in ('val_begin', 'dynamic_intervals'):
        cfg.train_cfg.pop(name, None)
    for other in hooks_of(cfg):
        if other is not hook:
            other.update(_quarter_of_counts(other))
    return cfg


def _quarter_of_counts(hook: dict[str, Any]) -> dict[str, int]:
    """Return a quarter of what a hook counts, rounded so that it acts in the quarter-run too."""
    counts = {
        name: value
        for name, value in hook.items()
        if is_number(value, Integral) and not name.startswith('warmup')
    }
    lengths = {name: ceil(x / SHORTER) for name, x in counts.items() if name.endswith(LENGTHS)}
    begins = {name: x // SHORTER for name, x in counts.items() if name.endswith(BEGINS)}
    return lengths | begins
