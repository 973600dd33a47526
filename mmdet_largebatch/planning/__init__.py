"""Plan a training before it starts: its figures in updates, and its hours."""

from .hours import Hours, Row, estimate_hours
from .hours_plot import draw_hours
from .hours_report import hours_as_json, hours_as_text
from .logged_times import times_like
from .measured_times import measure
from .plan import Plan, make_plan
from .plot import draw_lr
from .report import as_json, as_text, read_starts
from .update_time import Times, times_said

__all__ = [
    'Hours',
    'Plan',
    'Row',
    'Times',
    'as_json',
    'as_text',
    'draw_hours',
    'draw_lr',
    'estimate_hours',
    'hours_as_json',
    'hours_as_text',
    'make_plan',
    'measure',
    'read_starts',
    'times_like',
    'times_said',
]
