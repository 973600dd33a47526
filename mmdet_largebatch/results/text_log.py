"""Parse updates and evaluations from MMEngine's text log."""

import re
from typing import Any

UPDATE = re.compile(r'Epoch\(train\)\s*\[(\d+)\]\[\s*(\d+)/(\d+)\](.*)')
# The line at the end of an evaluation; those of its batches begin with an ETA or a time.
EVALUATION = re.compile(r'Epoch\(val\) \[(\d+)\]\[(\d+)/\2\] {4}(?!eta)(.*)')
# CocoMetric's words. MMEngine then logs the metrics of the evaluation before.
NOTHING = 'The testing results of the whole dataset is empty'
STOPPED = re.compile(
    r'the monitored metric did not improve in the last \d+ records'
    r'|Stopping threshold reached: |Monitored metric .* is infinite'
)
VALUE = re.compile(r'(\S+): (-?(?:\d[\d.e+-]*|nan|inf))(?=\s|$)')


def read_text(text: str) -> list[dict[str, Any]]:
    """Read the records that ``scalars.json`` would have.

    Args:
        text (str): A text log.

    Returns:
        list[dict]: The records of updates and of evaluations, in order.
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


def epochs_without_detections(text: str) -> set[int]:
    """Find the evaluations that found nothing.

    Args:
        text (str): A text log.

    Returns:
        Set[int]: Their epochs.
    """
    found, empty = {}, False
    for line in text.splitlines():
        empty = empty or NOTHING in line
        evaluation = EVALUATION.search(line)
        if evaluation:
            found[int(evaluation[1])], empty = empty, False
    return {epoch for epoch, nothing in found.items() if nothing}


def _values(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in VALUE.findall(text)}
