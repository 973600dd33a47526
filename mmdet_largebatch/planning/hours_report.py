"""Format the hours of a training as a table and as JSON."""

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from .hours import Hours, Row


def hours_as_json(hours: Hours) -> str:
    """Return the hours as one JSON object, with the names of :class:`Hours` and :class:`Row`.

    Args:
        hours (Hours): The hours.

    Returns:
        str: One line.
    """
    return json.dumps(asdict(hours))


def hours_as_text(hours: Hours) -> str:
    """Return the hours as a table, with its assumptions and the warnings below.

    Args:
        hours (Hours): The hours.

    Returns:
        str: Several lines.
    """
    frame = pd.DataFrame([_cells(row) for row in hours.rows]).dropna(axis=1, how='all')
    if frame['batch'].nunique() == 1:
        frame = frame.drop(columns='batch')
    options: dict[str, Any] = dict(index=False, disable_numparse=True, tablefmt='simple')
    table = frame.to_markdown(colalign=['right'] * len(frame.columns), **options)
    lines = [*table.splitlines(), '', f'times from {hours.source}; assumptions:']
    lines += [f'  - {line}' for line in hours.assumptions]
    lines += ['warnings' if hours.warnings else 'warnings         none']
    return '\n'.join(lines + [f'  - {line}' for line in hours.warnings])


def _cells(row: Row) -> dict[str, str | None]:
    least, most = row.micro_batches_per_rank
    evaluation = row.evaluation_seconds
    return {
        'GPUs': f'{row.gpus}',
        'micro-batches each': f'{least}' if least == most else f'{least} or {most}',
        'batch': f'{row.global_batch}',
        'images/s': digits(row.images_per_second),
        'efficiency': f'{row.efficiency:.2f}',
        'update': duration(row.update_seconds),
        'epoch': duration(row.epoch_seconds),
        'evaluation': '-' if evaluation is None else duration(evaluation),
        'total': duration(row.total_seconds),
        'GPU-hours': digits(row.gpu_hours),
        'cost': None if row.cost is None else f'{row.cost:,.2f}',
    }


def digits(value: float) -> str:
    """Format a number to three digits, or to all digits before the point."""
    return f'{value:,.0f}' if value >= 99.95 else f'{value:.3g}'


def duration(seconds: float) -> str:
    """Format a time: three digits below a minute, then minutes and seconds, hours and minutes."""
    if seconds < 59.5:
        return f'{seconds:.3g} s'
    if seconds < 3599.5:
        return '{} min {:02} s'.format(*divmod(round(seconds), 60))
    return '{:,} h {:02} min'.format(*divmod(round(seconds / 60), 60))
