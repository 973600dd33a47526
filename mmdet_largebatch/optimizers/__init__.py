"""Large-batch optimizers, and the grouping of parameters for them."""

from .lamb import LAMB, double_clip_message
from .lars import LARS
from .merged_groups import MergedGroupsConstructor, component_of

__all__ = ['LAMB', 'LARS', 'MergedGroupsConstructor', 'component_of', 'double_clip_message']
