"""Find the LR, or the largest batch, by short trainings from one state on the same images.

    python tools/branch.py CONFIG CHECKPOINT --lr 0.005 0.01 0.02 0.04
    python tools/branch.py CONFIG CHECKPOINT --global-batch 64 128 256 512

Each branch resumes from the checkpoint and sees the same images with the same random draws, so
that branches are compared in pairs. The LR is held constant for --updates, then divided by 10.
Without CHECKPOINT the recipe is warmed up first. On Ctrl-C the running branches save and exit; the
same command goes on, and one with more --updates extends the branches. A table, the losses and a
picture are written to --work-dir/results.
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from mmengine.config import Config

from ..checkpoints import check_initial_weights, trust_checkpoints
from ..planning import make_plan
from ..recipes.rules import rounded
from ..tuning.branch_conclusions import batch_conclusion, lr_conclusion
from ..tuning.branch_report import write_branches
from ..tuning.branches import check_recipe
from ..tuning.branching import Branching
from ..tuning.comparison import largest_batch, suggested_lr
from ..tuning.run_branches import (
    FACTORS,
    branch_over_batches,
    branch_over_lrs,
    find_start,
    lrs_of_batches,
    plans_of_batches,
)
from ..tuning.stages import SHORTEST
from . import check_checkpoint, check_work_dir, look_at_data, one_line_errors
from .trainings import add_training_arguments, in_folder, number_from, set_work_dir


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train branches from one state, and compare them')
    add = parser.add_argument
    add('config', help='config file')
    add('checkpoint', nargs='?', help='checkpoint of a training (the recipe is warmed up first)')
    add(
        '--lr',
        nargs='+',
        type=number_from(0, float),
        default=[],
        help="LRs of the branches (a quarter to four times the recipe's); with --global-batch one "
        "LR, of the recipe's batch",
    )
    add(
        '--global-batch',
        nargs='+',
        type=number_from(1),
        default=[],
        help='global batches of the branches, each with its LR by the rule of the optimizer',
    )
    add(
        '--updates',
        type=number_from(SHORTEST),
        default=100,
        help='updates of a branch (100); with --global-batch those of the largest batch',
    )
    add(
        '--decay-updates',
        type=number_from(0),
        help='further updates with a tenth of the LR, in which branches are compared (half of '
        '--updates); 0 for none',
    )
    add('--halving', action='store_true', help='drop the worse half of the LRs at each stage')
    add(
        '--tolerance',
        type=number_from(0, float),
        default=0.01,
        help="tolerated excess over the smallest batch's loss, as a fraction of it (0.01)",
    )
    add('--lr-rule', choices=['linear', 'sqrt'], help="rule of the LR (the optimizer's)")
    add('--trust-checkpoint', action='store_true', help='load a checkpoint that names code')
    add_training_arguments(parser, 'branch')
    args = parser.parse_args()
    set_work_dir(args, 'branch')
    if args.decay_updates is None:
        args.decay_updates = args.updates // 2
    if 0 < args.decay_updates < SHORTEST / 2:
        parser.error(f'argument --decay-updates: {args.decay_updates} is below {SHORTEST // 2}')
    if args.global_batch:
        if len(args.lr) > 1:
            parser.error("--global-batch takes one --lr, that of the recipe's batch")
        if args.halving:
            parser.error('--halving cannot be combined with --global-batch')
        if len(set(args.global_batch)) < 2:
            parser.error('--global-batch needs two batches or more')
    elif len(set(args.lr)) == 1:
        parser.error('--lr needs two LRs or more')
    return args


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Train branches, compare them, and say what to put into the config."""
    cfg.work_dir = str(args.work_dir)
    check_recipe(cfg)
    checkpoint = check_checkpoint('CHECKPOINT', args.checkpoint)
    if checkpoint is None:
        check_checkpoint('load_from', cfg.get('load_from'))
    check_initial_weights(cfg)
    check_work_dir(cfg)
    trust_checkpoints(args.trust_checkpoint)
    over, out = bool(args.global_batch), args.work_dir / 'results'
    with in_folder(args, Branching, 'img') as branching:
        look_at_data(cfg, ['train'])
        with redirect_stdout(sys.stderr):
            plan = make_plan(cfg, args.gpus)
            plans = plans_of_batches(cfg, plan, args.global_batch, args.gpus)
        path = Path(checkpoint) if checkpoint else None
        start = find_start(branching, cfg, path, plan, at_epoch_end=over)
        if over:
            lr = args.lr[0] if args.lr else plan.lr * start.lr_factor
            lrs = lrs_of_batches(cfg, lr, plan.global_batch, list(plans), args.lr_rule)
            compared = branch_over_batches(branching, cfg, start, plans, lrs)
        else:
            grid = args.lr or [rounded(plan.lr * start.lr_factor * x) for x in FACTORS]
            compared = branch_over_lrs(branching, cfg, start, plan, list(dict.fromkeys(grid)))
    setting = 'global_batch' if over else 'lr'
    print(write_branches(compared, setting, out), end='')
    if over:
        base_lrs: dict[float, float] = {batch: one.lr for batch, one in plans.items()}
        print(batch_conclusion(compared, cfg, base_lrs, args.tolerance), end='')
    else:
        print(lr_conclusion(compared, cfg, plan.lr), end='')
    print(f'Table, losses and picture: {out}')
    found = largest_batch(compared, args.tolerance) if over else suggested_lr(compared)
    if found is None:
        sys.exit(1)


if __name__ == '__main__':
    main()
