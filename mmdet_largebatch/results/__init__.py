"""Read, tabulate and draw training runs."""

from .curves import draw_curves
from .heatmap import draw_heatmap, is_grid
from .public import public_report
from .read_run import read_run
from .report import write_report
from .run import Evaluation, LoggedUpdate, Run
from .table import as_frame, as_markdown, write_table

__all__ = [
    'Evaluation',
    'LoggedUpdate',
    'Run',
    'as_frame',
    'as_markdown',
    'draw_curves',
    'draw_heatmap',
    'is_grid',
    'public_report',
    'read_run',
    'write_report',
    'write_table',
]
