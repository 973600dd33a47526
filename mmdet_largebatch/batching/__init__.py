"""The global batch: the images that one optimizer update learns from."""

from .contract import outside_contract
from .loop import GlobalBatchTrainLoop
from .sampler import GlobalBatchSampler

__all__ = ['GlobalBatchSampler', 'GlobalBatchTrainLoop', 'outside_contract']
