"""Make the table of public COCO trainings, mmdet_largebatch/results/public_coco.csv.

    python tools/make_public_table.py runs.csv --plot docs/images/public_coco.png

runs.csv has one row for each public training log, with the columns global_batch, start_ms and
box/mask_AP_by_eval ("0.174/0.178 0.235/0.230 ...", one pair for each epoch).
"""

import argparse
from pathlib import Path

import pandas as pd

from mmdet_largebatch.results.public import QUANTILES, TABLE, batches_figure, read_public

APS = 'box/mask_AP_by_eval'
HEADER = """\
# Box and mask AP (COCO val2017) by global batch and epoch of public trainings of Mask R-CNN R50:
# number of trainings, and the 5th, 25th, 50th, 75th and 95th percentile of the AP.
# Source: public training logs in github.com/mlcommons/training_results_v0.7, v1.1, v2.0, v2.1, v3.0
# and v3.1. Licence: Apache-2.0. All trainings use SGD. Made by tools/make_public_table.py.
"""


def read_aps(path: Path) -> pd.DataFrame:
    """Read the AP of each training and epoch.

    Args:
        path (Path): CSV with one row for each training log.

    Returns:
        pd.DataFrame: Columns ``global_batch``, ``training``, ``epoch``, ``box_ap``, ``mask_ap``.
    """
    # The same training may be in several releases.
    trainings = pd.read_csv(path, comment='#').drop_duplicates(['start_ms', APS])
    rows = [
        (batch, training, epoch, *map(float, pair.split('/')))
        for training, batch, aps in trainings[['global_batch', APS]].itertuples()
        for epoch, pair in enumerate(aps.split(), 1)
    ]
    return pd.DataFrame(rows, columns=['global_batch', 'training', 'epoch', 'box_ap', 'mask_ap'])


def make_table(aps: pd.DataFrame) -> pd.DataFrame:
    """Return the number of trainings and the quantiles of AP by batch and epoch.

    A training ends when it reaches a target AP. Epochs that fewer than half of the trainings of a
    batch reached are left out: only slow trainings are left there.

    Args:
        aps (pd.DataFrame): From :func:`read_aps`.

    Returns:
        pd.DataFrame: The table.
    """
    groups = aps.groupby(['global_batch', 'epoch'])
    table = groups.training.nunique().to_frame('trainings')
    for key in ('box_ap', 'mask_ap'):
        for quantile in QUANTILES:
            table[f'{key}_{quantile}'] = groups[key].quantile(quantile / 100).round(4)
    table = table.reset_index()
    most = table.groupby('global_batch').trainings.transform('max')
    return table[table.trainings >= most / 2]


def main() -> None:
    """Read the command line, write the table and draw it."""
    parser = argparse.ArgumentParser(description='Make the table of public COCO trainings')
    parser.add_argument('runs', type=Path, help='CSV with one row for each training log')
    parser.add_argument('--out', type=Path, default=TABLE, help='table to write')
    parser.add_argument('--plot', type=Path, help='picture of AP by epoch for several batches')
    args = parser.parse_args()
    table = make_table(read_aps(args.runs))
    args.out.write_text(HEADER + table.to_csv(index=False))
    print(f'{args.out}: {len(table)} rows')
    if args.plot:
        batches_figure(read_public(args.out)).savefig(args.plot)


if __name__ == '__main__':
    main()
