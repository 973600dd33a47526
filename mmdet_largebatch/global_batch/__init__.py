"""The global batch: the images that one optimizer update learns from."""

from .loop import GlobalBatchTrainLoop
from .own_generators import own_generator_message
from .rank_dependence import rank_dependent_modules
from .remembering import remembering_message
from .sampler import GlobalBatchSampler

__all__ = [
    'GlobalBatchSampler',
    'GlobalBatchTrainLoop',
    'own_generator_message',
    'rank_dependent_modules',
    'remembering_message',
]
