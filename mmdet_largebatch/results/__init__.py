"""Read, tabulate and draw the results of trainings."""

from .curves import draw_curves
from .heatmap import draw_heatmap, is_grid
from .read_run import read_run
from .report import write_report
from .run import Evaluation, LoggedUpdate, Run
from .table import as_markdown, table_rows, write_table

__all__ = [
    'Evaluation',
    'LoggedUpdate',
    'Run',
    'as_markdown',
    'draw_curves',
    'draw_heatmap',
    'is_grid',
    'read_run',
    'table_rows',
    'write_report',
    'write_table',
]
