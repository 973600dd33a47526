"""Styles and labels of the figures, and how figures are saved."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ..errors import SettingError
from .run import Run
from .table import distinct_names, number

# Okabe and Ito's palette for the colour-blind, without its yellow, which is faint on white.
# https://jfly.uni-koeln.de/color/
COLORS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
DASHES = ('-', (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*', '<', '>', 'h', 'p')
# Characters of a folder's name in a label.
LONGEST_NAME = 50
# Settings that a label may show, in this order.
SETTINGS: dict[str, Callable[[Run], str | None]] = {
    'optimizer': lambda run: run.optimizer or '-',
    'global_batch': lambda run: f'batch {number(run.global_batch)}',
    'epochs': lambda run: f'{run.epochs} epochs',
    'max_updates': lambda run: f'{run.max_updates} updates' if run.max_updates else None,
    'lr': lambda run: f'LR {number(run.lr)}',
    'warmup_updates': lambda run: f'warmup {number(run.warmup_updates)}',
    'seed': lambda run: None if run.seed is None else f'seed {run.seed}',
}


def labels(runs: Sequence[Run]) -> list[str]:
    """Return a label for each run: the settings that differ, and the status unless done.

    The optimizer is always shown. A single run also shows its batch, LR and warmup.

    Args:
        runs (Sequence[Run]): Runs.

    Returns:
        list[str]: Labels; with the folder's name where the settings are the same.
    """
    shown = [key for key in SETTINGS if len({getattr(run, key) for run in runs}) > 1]
    if len(runs) == 1:
        shown = ['global_batch', 'lr', 'warmup_updates']
    shown = list(dict.fromkeys(['optimizer', *shown]))
    texts = [', '.join(filter(None, (SETTINGS[key](run) for key in shown))) for run in runs]
    names = distinct_names(runs)
    short = [_shortened(name) for name in names]
    names = short if len(set(short)) == len(set(names)) else names
    return [
        (text if texts.count(text) == 1 else f'{text} ({name})')
        + ('' if run.status == 'done' else f': {run.status}')
        for run, text, name in zip(runs, texts, names, strict=True)
    ]


def _shortened(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    return f'{name[: LONGEST_NAME // 2]}…{name[-LONGEST_NAME // 2 :]}'


def run_styles(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a line style for each run; 12 runs stay distinct in grey.

    In a sweep, runs with the same optimizer and LR share a colour and differ in their dashes.
    Otherwise each run has its own colour.

    Args:
        runs (Sequence[Run]): Runs.

    Returns:
        list[dict]: ``color``, ``ls`` and ``marker``.
    """
    families = [(run.optimizer, run.lr) for run in runs]
    kinds = list(dict.fromkeys(families))
    if 1 < len(kinds) <= min(len(COLORS), len(runs) / 2):
        colors = [kinds.index(family) for family in families]
        dashes = [families[:index].count(family) for index, family in enumerate(families)]
    else:
        colors = dashes = list(range(len(runs)))
    return [
        dict(
            color=COLORS[color % len(COLORS)],
            ls=DASHES[dash % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)],
        )
        for index, (color, dash) in enumerate(zip(colors, dashes, strict=True))
    ]


def save(figure: Figure, path: str | Path) -> None:
    """Write a picture and create its folder.

    Args:
        figure (Figure): Figure.
        path (str or Path): File; the suffix sets the format.

    Raises:
        SettingError: If the file cannot be written.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise SettingError(f'picture={path}: cannot be written ({error}).') from error
