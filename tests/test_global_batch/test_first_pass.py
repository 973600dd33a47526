"""The first pass over the micro-batches of an update leaves nothing behind."""

import os

import torch
from helpers.regression import Regression, toy_runner
from torch.utils.data import TensorDataset

OPEN_FILES = []


class CountFiles(Regression):
    """Count the open files of this process."""

    def forward(self, x, y, mode='loss'):
        OPEN_FILES.append(len(os.listdir('/proc/self/fd')))
        return super().forward(x, y, mode)


def test_micro_batches_of_data_workers_are_not_kept_in_shared_memory(tmp_path):
    """A file stays open for each of their tensors. The second update keeps none."""
    OPEN_FILES.clear()
    runner = toy_runner(
        *(tmp_path, CountFiles(), 1, 2),
        data=dict(dataset=TensorDataset(torch.ones(64, 3), torch.ones(64)), workers=1),
        train_cfg=dict(global_batch_size=64),
    )
    runner.train()
    # Two passes, then one.
    first, second = OPEN_FILES[:128], OPEN_FILES[128:]
    assert len(second) == 64
    # A worker has up to 3 micro-batches of 2 tensors under way.
    assert max(first) <= max(second) + 6
