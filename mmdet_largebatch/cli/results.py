"""Tabulate and draw what trainings came to, from their logs.

python tools/results.py work_dirs/lamb work_dirs/sgd --out results
"""

import argparse
import sys
from pathlib import Path

from ..results import read_run, write_report
from . import one_line_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Tabulate and draw what trainings came to')
    parser.add_argument(
        'work_dirs',
        nargs='+',
        type=Path,
        metavar='WORK_DIR',
        help="work folder of a training, by the tools here or by MMDetection's own train.py",
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('results'),
        metavar='FOLDER',
        help='where the table (results.md, results.csv, ap_by_epoch.csv) and the pictures '
        '(curves.png, heatmap.png) go; results by default',
    )
    parser.add_argument(
        '--group-seeds',
        action='store_true',
        help='one row and one line for runs that differ only in the seed: mean and standard '
        'deviation, mean and range',
    )
    parser.add_argument(
        '--heatmap',
        action='store_true',
        help='draw AP over LR and warmup though some pairs are missing; by itself it is drawn if '
        'the runs are a whole grid',
    )
    return parser.parse_args()


@one_line_errors(parse_args)
def main(args: argparse.Namespace) -> None:
    """Read the runs, write the table, draw."""
    # A folder that is named twice is one run.
    folders = {work_dir.resolve(): work_dir for work_dir in args.work_dirs}
    runs = [read_run(work_dir) for work_dir in folders.values()]
    for note in (note for run in runs for note in run.notes):
        print(f'note: {note}', file=sys.stderr)
    print(write_report(runs, args.out, args.group_seeds, args.heatmap or None), end='')


if __name__ == '__main__':
    main()
