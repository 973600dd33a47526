"""Seed random draws by the seed of the run, the update and the micro-batch alone."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .own_generators import seedable_parts

# What the draws are for: data workers, the model, and transforms with generators of their own.
DATA, MODEL, OWN = 0, 1, 2


class MicroBatch(list):
    """The indices of one micro-batch, with the seed of its random draws.

    Args:
        indices (Sequence[int]): Indices into the dataset.
        key (tuple[int, int, int]): Seed of the run, update (from the start of the training) and
            number of the micro-batch within the update.
    """

    def __init__(self, indices: Sequence[int], key: tuple[int, int, int]) -> None:
        super().__init__(indices)
        self.key = key

    def __reduce__(self) -> tuple:
        return type(self), (list(self), self.key)


def seed_generators(key: tuple[int, int, int], stream: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, those of CUDA devices too.

    Args:
        key (tuple[int, int, int]): Seed, update and micro-batch, each >= 0.
        stream (int): ``DATA`` or ``MODEL``.
    """
    words = np.random.SeedSequence((*key, stream)).generate_state(8)
    random.seed(words[:4].tobytes())
    np.random.seed(words[4:6])
    seed = int.from_bytes(words[6:8].tobytes(), 'little')
    # torch.manual_seed formats a stack trace for each kind of device that is not in use yet, which
    # takes a hundred times as long as this.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class SeededFetch:
    """Load a micro-batch with augmentation drawn from its own seed.

    PyTorch's data workers call a dataset's ``__getitems__``, where it has one, with all indices of
    a batch. This is meant to be set as that attribute on a dataset. A transform with a method
    ``set_random_seed``, as Albumentations has it, gets a seed of its own for each micro-batch.

    Args:
        dataset (Any): The dataset; its own ``__getitems__`` is used where it has one.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.fetch = getattr(dataset, '__getitems__', None)
        self.seedable: list[Any] = []

    def look(self) -> None:
        """Find transforms to seed one by one. A hook may have replaced the pipeline."""
        self.seedable = []
        self.seedable = seedable_parts(self.dataset)

    def __call__(self, batch: MicroBatch) -> list[Any]:
        """Load a micro-batch.

        Args:
            batch (MicroBatch): Which samples, and what seeds them.

        Returns:
            list[Any]: The samples.
        """
        seed_generators(batch.key, DATA)
        if self.seedable:
            seeds = np.random.SeedSequence((*batch.key, OWN)).generate_state(len(self.seedable))
            for part, seed in zip(self.seedable, seeds.tolist(), strict=True):
                part.set_random_seed(seed)
        if self.fetch is not None:
            return self.fetch(list(batch))
        return [self.dataset[index] for index in batch]
