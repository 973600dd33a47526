"""Large-batch optimizers, and the grouping of parameters for them."""

from .base import double_clip_message
from .lamb import LAMB
from .lars import LARS
from .merged_groups import MergedGroupsConstructor, component_of

__all__ = ['LAMB', 'LARS', 'MergedGroupsConstructor', 'component_of', 'double_clip_message']
