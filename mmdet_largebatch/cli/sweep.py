"""Train a recipe with several LRs and warmups, then tabulate and draw the results.

    python tools/sweep.py CONFIG --lr 0.005 0.01 0.02 --warmup-iters 0 32 --jobs 2

Each combination is trained in its own folder under --work-dir. On Ctrl-C the running trainings
save and exit; the same command resumes them and skips finished ones. Diverged runs count as
finished. Table and pictures are written to --work-dir/results.

With --table each finished run is also a row of a CSV file. Runs with a row are not trained, so a
sweep continues from this file alone. With --halving most runs are short, and only the best
continue (mmdet_largebatch/tuning/halving.py).
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config

from ..checkpoints import check_initial_weights
from ..recipes.config_file import subject
from ..recipes.optimizer import absolute_lrs
from ..results import write_report
from ..results.run_rows import read_rows
from ..tuning import Sweep, finished_run, halve, train_all
from . import check_checkpoint, check_output, check_work_dir, look_at_data, one_line_errors
from .trainings import add_training_arguments, in_folder, number_from, set_work_dir


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a recipe with several LRs and warmups')
    add = parser.add_argument
    add('config', help='config file')
    add(
        '--lr',
        nargs='+',
        type=number_from(0, float),
        default=[],
        help="LRs after the warmup (the recipe's LR)",
    )
    add(
        '--warmup-iters',
        nargs='+',
        type=number_from(0),
        default=[],
        help="lengths of the warmup in updates (the recipe's warmup)",
    )
    add(
        '--seeds',
        nargs='+',
        type=number_from(0),
        default=[],
        help="seeds, each with every pair of LR and warmup (the recipe's seed)",
    )
    add('--samples', type=number_from(1), help='random pairs of LR and warmup to run (all)')
    add('--sample-seed', type=number_from(0), default=0, help='seed of the random pairs (0)')
    add(
        '--halving',
        action='store_true',
        help='train all pairs for a quarter of the updates, the best three in full, and the best '
        'two of these with a second seed',
    )
    add(
        '--table',
        type=Path,
        help='CSV file with a row for each finished run; runs with a row are not trained again '
        '(with --halving runs.csv in --work-dir)',
    )
    add('--updates', type=number_from(1), help='cut each run short after this many updates')
    add_training_arguments(parser, 'sweep')
    args = parser.parse_args()
    set_work_dir(args, 'sweep')
    if args.halving:
        args.table = args.table or args.work_dir / 'runs.csv'
        args.seeds = args.seeds or [0, 1]
        if args.samples:
            parser.error('--samples cannot be combined with --halving')
    if args.table and args.updates:
        parser.error('--updates cannot be combined with --table: a row is a whole run')
    return args


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Train, tabulate and draw."""
    cfg.work_dir = str(args.work_dir)
    check_checkpoint('load_from', cfg.get('load_from'))
    check_initial_weights(cfg)
    check_work_dir(cfg)
    if args.table:
        check_output('--table', args.table, ['.csv'])
        read_rows(args.table)
    with in_folder(args, Sweep, 'quarter-run' if args.halving else 'run') as sweep:
        look_at_data(cfg, ['train', 'val'])
        # With any ratio but 1, the changes name the LRs.
        for change in absolute_lrs(cfg, 2) if args.lr else ():
            sweep.say(f'note: {subject(change)} stays, whatever --lr is')
        concluded = halve(sweep, cfg) if args.halving else train_all(sweep, cfg)
    # With --halving, the runs of a quarter of the updates: the full runs are in the table.
    runs = [run for trial in sweep.compared if (run := finished_run(trial)) is not None]
    if runs:
        # Random pairs make a heat map with gaps.
        several = len({run.lr for run in runs}) > 1 < len({run.warmup_updates for run in runs})
        out = args.work_dir / 'results'
        heatmap = True if args.samples and several else None
        print(write_report(runs, out, len(args.seeds) > 1, heatmap), end='')
        print(f'Table and pictures: {out}')
    if args.table:
        print(f'Rows of the runs: {args.table}')
    print(concluded, end='')
    if sweep.failed:
        print(f'{len(sweep.failed)} of {len(sweep.known)} runs failed.', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
