"""Plan a training before it starts."""

from .plan import Plan, make_plan
from .plot import draw_lr
from .report import as_json, as_text, read_starts

__all__ = ['Plan', 'as_json', 'as_text', 'draw_lr', 'make_plan', 'read_starts']
