"""The global batch: the images that one optimizer update learns from."""

from .loop import GlobalBatchTrainLoop

__all__ = ['GlobalBatchTrainLoop']
