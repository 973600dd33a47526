"""The global batch: the images that one optimizer update learns from."""

from .loop import GlobalBatchTrainLoop
from .rank_dependence import rank_dependent_modules
from .remembering import remembering_message
from .sampler import GlobalBatchSampler

__all__ = [
    'GlobalBatchSampler',
    'GlobalBatchTrainLoop',
    'rank_dependent_modules',
    'remembering_message',
]
