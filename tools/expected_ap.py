"""Called by quickstart.sh: print the AP of a log, and whether it is as expected.

``python tools/expected_ap.py LOG TABLE EPOCHS``

TABLE is a table of ``tools/sweep.py`` with runs of LAMB that differ in the seed alone. The expected
range is the interval that holds the AP of one more seed with a probability of 95 %, if the AP is
normally distributed: mean +- t s sqrt(1 + 1/n).
"""

import re
import sys

import pandas as pd
from scipy.stats import t

PROBABILITY = 0.95


def interval(values: pd.Series) -> tuple[float, float]:
    """Return the prediction interval of one more value, within 0 and 1."""
    n = len(values)
    half = t.ppf(0.5 + PROBABILITY / 2, n - 1) * values.std() * (1 + 1 / n) ** 0.5
    return max(0.0, values.mean() - half), min(1.0, values.mean() + half)


def main() -> None:
    """Print a line for box AP and one for mask AP."""
    log, table, epochs = sys.argv[1:]
    runs = pd.read_csv(table)
    runs = runs[(runs.optimizer == 'LAMB') & (runs.epochs == int(epochs))]
    with open(log) as lines:
        text = lines.read()
    for name, kind in (('box', 'bbox'), ('mask', 'segm')):
        found = re.findall(rf'coco/{kind}_mAP: ([0-9.]+)', text)
        if not found:
            print(f'== {name:4} AP  none: no object was found')
            continue
        ap, said = float(found[-1]), 'not known for so few epochs'
        if len(runs) > 1:
            low, high = interval(runs[f'{name}_ap'])
            inside = round(low, 3) <= ap <= round(high, 3)
            said = f'{low:.3f} to {high:.3f} over {len(runs)} seeds, so this is '
            said += 'as expected' if inside else 'not as expected: see docs/results.md'
        print(f'== {name:4} AP  {ap:.3f} (expected: {said})')


if __name__ == '__main__':
    main()
