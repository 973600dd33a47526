"""Colours, dashes and markers of the figures, and how they are saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..errors import SettingError
from .run import Run

# Okabe and Ito's palette, which the colour-blind can tell apart, without its yellow, which is faint
# on white. https://jfly.uni-koeln.de/color/
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
DASHES = ('-', (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*', '<', '>', 'h', 'p')


def run_styles(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the style of each run's line; 12 runs stay distinct in print.

    Where runs share their optimizer and LR with others, two and more on average, as in a sweep,
    these are what the colour stands for, and dashes tell the runs of one colour apart. Otherwise
    each run has its own colour and dashes. The marker is a run's own.

    Args:
        runs (Sequence[Run]): The runs.

    Returns:
        list[dict]: ``color``, ``ls`` and ``marker`` of each.
    """
    families = [(run.optimizer, run.lr) for run in runs]
    kinds = list(dict.fromkeys(families))
    if not 1 < len(kinds) <= min(len(COLORS), len(runs) / 2):
        colors = dashes = list(range(len(runs)))
    else:
        colors = [kinds.index(family) for family in families]
        dashes = [families[:number].count(family) for number, family in enumerate(families)]
    return [
        dict(
            color=COLORS[color % len(COLORS)],
            ls=DASHES[dash % len(DASHES)],
            marker=MARKERS[number % len(MARKERS)],
        )
        for number, (color, dash) in enumerate(zip(colors, dashes, strict=True))
    ]


def save(figure: Figure, path: str | Path) -> None:
    """Write a picture; its folder is made if it is not there.

    Args:
        figure (Figure): The figure.
        path (str or Path): The file; its suffix says the format.

    Raises:
        SettingError: If it cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SettingError(f'picture={path}: cannot be written ({error}).') from error
