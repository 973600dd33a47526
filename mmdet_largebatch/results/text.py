"""Runs in words: names, labels, numbers."""

from collections.abc import Callable, Sequence

from .run import Run


def number(value: float | None) -> str:
    """Format a setting.

    Args:
        value (float, optional): The number.

    Returns:
        str: It, to 6 digits; ``-`` for None.
    """
    return '-' if value is None else f'{value:.6g}'


def rate(value: float) -> str:
    """Format a speed.

    Args:
        value (float): The speed.

    Returns:
        str: It, to 3 digits, or to a whole number.
    """
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def duration(seconds: float) -> str:
    """Format a time.

    Args:
        seconds (float): The time.

    Returns:
        str: It as h:mm:ss.
    """
    minutes, rest = divmod(round(seconds), 60)
    return f'{minutes // 60}:{minutes % 60:02}:{rest:02}'


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """Return the names of the work folders, with as much of their paths as differs.

    Args:
        runs (Sequence[Run]): The runs.

    Returns:
        list[str]: A name a run.
    """
    parts = [run.work_dir.resolve().parts for run in runs]
    names, depth = ['/'.join(path[-1:]) for path in parts], 1
    while len(set(names)) < len(set(parts)):
        depth += 1
        names = ['/'.join(path[-depth:]) for path in parts]
    return names


# Characters of a name in a label.
LONGEST_NAME = 50
# What may tell runs apart in a picture, in the order in which it is written.
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
    """Return a label for each run: the settings that differ, and the status.

    The optimizer is always there; a run alone has its batch, LR and warmup too.

    Args:
        runs (Sequence[Run]): The runs.

    Returns:
        list[str]: A label a run; with the name of the work folder where the settings do not do.
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
