"""Find box AP and mask AP among the metrics of evaluations."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def ap_names(evaluations: Sequence[dict[str, Any]]) -> tuple[str | None, str | None]:
    """Return the logged names of box AP and mask AP: COCO's, with any prefix, or LVIS's.

    With several data sets, both are of the same one: the one with the prefix ``coco``, or else the
    first in alphabetical order.

    Args:
        evaluations (Sequence[dict]): Records of evaluations.

    Returns:
        tuple[str or None, str or None]: Names; None if not logged.
    """
    boxes, masks = _by_prefix(evaluations, 'bbox'), _by_prefix(evaluations, 'segm')
    if max(len(boxes), len(masks)) > 1:
        first = min({**boxes, **masks}, key=lambda name: (name not in boxes, name != 'coco', name))
        return boxes.get(first), masks.get(first)
    return next(iter(boxes.values()), None), next(iter(masks.values()), None)


def several_aps(evaluations: Sequence[dict[str, Any]], work_dir: Path) -> list[str]:
    """Return a note if APs of several data sets were logged; empty if not.

    Args:
        evaluations (Sequence[dict]): Records of evaluations.
        work_dir (Path): Work folder, for the note.

    Returns:
        list[str]: At most one note.
    """
    kinds = [list(_by_prefix(evaluations, kind).values()) for kind in ('bbox', 'segm')]
    if max(map(len, kinds)) <= 1:
        return []
    logged, read = ', '.join(sum(kinds, [])), ' and '.join(filter(None, ap_names(evaluations)))
    return [f'{work_dir}: several APs in its evaluations, {logged}; read {read}']


def _by_prefix(evaluations: Sequence[dict[str, Any]], kind: str) -> dict[str, str]:
    """Return the names of an AP by their prefix, in alphabetical order."""
    pattern = re.compile(rf'(?:(.*)/)?{kind}_m?AP')
    names = sorted({key for record in evaluations for key in record})
    found = [match for name in names if (match := pattern.fullmatch(name))]
    return {match[1] or '': match[0] for match in found}
