"""Parse MMEngine's text log, for stock runs and for runs without ``scalars.json``."""

import re
from typing import Any

UPDATE = re.compile(r'Epoch\(train\)\s*\[(\d+)\]\[\s*(\d+)/(\d+)\](.*)')
# The last line of an evaluation. The lines of its batches begin with an ETA or a time.
EVALUATION = re.compile(r'Epoch\(val\) \[(\d+)\]\[(\d+)/\2\] {4}(?!eta)(.*)')
VALUE = re.compile(r'(\S+): (-?(?:\d[\d.e+-]*|nan|inf))(?=\s|$)')
# MMEngine logs its world size under this name, with and without GPUs.
RANKS = re.compile(r'^\s+GPU number: (\d+)$', re.M)
SEED = re.compile(r'^\s+seed: (\d+)$', re.M)
SAVED = re.compile(r'Saving checkpoint at (\d+) epochs')
STOPPED = re.compile(
    r'the monitored metric did not improve in the last \d+ records'
    r'|Stopping threshold reached: |Monitored metric .* is infinite'
)
# CocoMetric's line. MMEngine then logs the metrics of the evaluation before.
NOTHING = 'The testing results of the whole dataset is empty'


def read_scalars(text: str) -> list[dict[str, Any]]:
    """Read the records that ``scalars.json`` would have, with 4 decimals.

    Args:
        text (str): Text log.

    Returns:
        list[dict]: Records of updates and evaluations, in order.
    """
    records = []
    for line in text.splitlines():
        update, evaluation = UPDATE.search(line), EVALUATION.search(line)
        if update:
            epoch, position, length = map(int, update.groups()[:3])
            step, values = (epoch - 1) * length + position, _values(update[4])
            if 'loss' in values:
                records.append(dict(values, epoch=epoch, iter=step, step=step))
        elif evaluation and int(evaluation[1]) > 0:
            records.append(dict(_values(evaluation[3]), step=int(evaluation[1])))
    return records


def read_facts(text: str) -> dict[str, Any]:
    """Read the facts of a stock run that its config and ``scalars.json`` lack.

    Args:
        text (str): Text log.

    Returns:
        dict: ``ranks``, ``seed`` and ``updates_per_epoch`` (iterations) as in ``largebatch.json``,
        ``saved_epochs``, ``stopped`` and ``empty_evaluations`` (epochs).
    """
    iterations = UPDATE.search(text)
    return dict(
        ranks=_number(RANKS, text),
        seed=_number(SEED, text),
        updates_per_epoch=int(iterations[3]) if iterations else None,
        saved_epochs=max(map(int, SAVED.findall(text)), default=0),
        stopped=bool(STOPPED.search(text)),
        empty_evaluations=_empty_evaluations(text),
    )


def _empty_evaluations(text: str) -> set[int]:
    """Find the epochs whose evaluation detected nothing."""
    found, empty = {}, False
    for line in text.splitlines():
        empty = empty or NOTHING in line
        evaluation = EVALUATION.search(line)
        if evaluation:
            found[int(evaluation[1])], empty = empty, False
    return {epoch for epoch, nothing in found.items() if nothing}


def _number(pattern: re.Pattern, text: str) -> int | None:
    found = pattern.search(text)
    return int(found[1]) if found else None


def _values(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in VALUE.findall(text)}
