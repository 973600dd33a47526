"""Large-batch optimizers, and the grouping of parameters for them."""

from .lamb import LAMB, double_clip_message
from .lars import LARS

__all__ = ['LAMB', 'LARS', 'double_clip_message']
