"""Train a recipe by successive halving."""

from mmengine.config import Config

from ..results.run_rows import read_rows
from .halving import FAILED, Halving, Point, quarter_of, score
from .sweep import Sweep
from .trials import Trial, combinations


def halve(sweep: Sweep, cfg: Config) -> str:
    """Train by successive halving.

    Args:
        sweep (Sweep): Sweep.
        cfg (Config): Recipe.

    Returns:
        str: Lines on the grid and on the winner; empty if a run failed.
    """
    args = sweep.args
    halving = Halving(args.lr, args.warmup_iters, args.seeds)
    recipes = {False: quarter_of(cfg), True: cfg}
    trials: dict[Point, Trial] = {}

    def trial_of(point: Point) -> Trial:
        if point not in trials:
            folder = args.work_dir / ('full' if point.full else 'quarter')
            [trials[point]] = combinations(folder, [point.lr], [point.warmup], [point.seed])
            sweep.add([trials[point]], recipes[point.full])
            if not point.full:
                sweep.compared.append(trials[point])
        return trials[point]

    scores: dict[Point, float] = {}
    begun, grid = False, halving.lrs
    while missing := halving.missing(scores):
        new = [lr for lr in halving.grid(scores) if lr not in grid]
        if new:
            grid = halving.grid(scores)
            text = f'The best LR is at the edge of the grid, which gets LR {new[0]:g}.'
            sweep.say(text)
        known = {point: trial_of(point) for point in missing}
        waiting = [point for point, trial in known.items() if not sweep.is_done(trial)]
        rows = read_rows(args.table)
        for point, trial in known.items():
            if point not in waiting:
                scores[point] = score(rows[sweep.keys[trial]])
        if waiting:
            left = halving.remaining_cost(scores)
            if not begun:
                total = halving.remaining_cost({})
                sweep.begin_bar(total - left, total)
                begun = True
            sweep.bar.total = sweep.bar.n + left
            sweep.bar.set_description('in full' if waiting[0].full else 'quarter-runs')
            sweep.train([known[point] for point in waiting], waiting[0].cost)
            if sweep.failed:
                return ''
    return conclusion(halving, scores)


def conclusion(halving: Halving, scores: dict[Point, float]) -> str:
    """Return the lines on the full runs, the winner and the grid, or that there is no winner."""
    lr, warmup = halving.winner(scores)
    full = sorted((x for x in scores if x.full), key=lambda x: (x.lr, x.warmup, x.seed))
    lines = [
        f'LR {point.lr:g}, warmup {point.warmup}, seed {point.seed}: '
        + ('failed' if scores[point] == FAILED else f'box AP {scores[point]:.3f}')
        for point in full
    ]
    if min(scores[Point(lr, warmup, seed, True)] for seed in halving.seeds) == FAILED:
        return '\n'.join([*lines, 'No winner: no pair trains with both seeds. Try lower LRs.', ''])
    lines.append(f'Winner by the worse of its two seeds: LR {lr:g}, warmup {warmup}.')
    grid = halving.grid(scores)
    added = [f'{value:g}' for value in grid if value not in halving.lrs]
    if added:
        lines.append(f'LRs added beyond the edge of the grid: {", ".join(added)}.')
    if lr in (grid[0], grid[-1]):
        lines.append(f'LR {lr:g} is at the edge of the grid: a better LR may lie beyond it.')
    return '\n'.join(lines) + '\n'
