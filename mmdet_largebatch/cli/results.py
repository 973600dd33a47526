"""Tabulate and draw training runs from their logs.

python tools/results.py work_dirs/lamb work_dirs/sgd --out results
"""

import argparse
import sys
from pathlib import Path

from ..results import public_report, read_run, write_report
from . import one_line_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Tabulate and draw training runs')
    parser.add_argument(
        'work_dirs',
        nargs='+',
        type=Path,
        metavar='WORK_DIR',
        help="work folder of a run, of this package's tools or of MMDetection's own train.py",
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('results'),
        metavar='FOLDER',
        help='folder for the table (results.md, results.csv, ap_by_epoch.csv) and the pictures '
        '(curves.png, heatmap.png); results by default',
    )
    parser.add_argument(
        '--group-seeds',
        action='store_true',
        help='merge runs that differ only in the seed: mean and standard deviation in the table, '
        'mean and range in the curves',
    )
    parser.add_argument(
        '--heatmap',
        action='store_true',
        help='draw AP over LR and warmup even if some pairs are missing; a full grid is drawn '
        'anyway',
    )
    parser.add_argument(
        '--public',
        action='store_true',
        help='place Mask R-CNN R50 runs on COCO among public trainings of the nearest batch, and '
        'draw public.png',
    )
    return parser.parse_args()


@one_line_errors(parse_args)
def main(args: argparse.Namespace) -> None:
    """Read the runs, write the table and draw the pictures."""
    # A folder given twice is one run.
    folders = {work_dir.resolve(): work_dir for work_dir in args.work_dirs}
    runs = [read_run(work_dir) for work_dir in folders.values()]
    for note in (note for run in runs for note in run.notes):
        print(f'note: {note}', file=sys.stderr)
    compared = public_report(runs, args.out / 'public.png') if args.public else ''
    print(write_report(runs, args.out, args.group_seeds, args.heatmap or None), end=compared)


if __name__ == '__main__':
    main()
