"""2 ranks, of which rank 0 has a batch more in an evaluation and is told to go in it."""

import os
import signal
from functools import partial

from mmengine.hooks import Hook
from torch.utils.data import Subset

from helpers.forked import run_ranks
from helpers.regression import Points, loader
from helpers.small_training import Error, make

BATCHES = 6, 5


class TellInLastBatch(Hook):
    """Send SIGTERM to rank 0 in the batch that rank 1 does not have."""

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        assert len(runner.val_dataloader) == BATCHES[runner.rank]
        if batch_idx == BATCHES[1]:
            os.kill(os.getpid(), signal.SIGTERM)


def train(folder):
    """Train 4 epochs of 2 updates. Ranks that wait for each other forever are killed."""
    signal.alarm(120)
    points = loader(1, Subset(Points(), range(sum(BATCHES))), shuffle=False)
    points['sampler']['round_up'] = False
    make(
        folder,
        hooks=[TellInLastBatch()],
        ranks=2,
        val=False,
        val_dataloader=points,
        val_cfg=dict(type='ValLoop'),
        val_evaluator=dict(type=Error),
    ).train()


def main(folder):
    run_ranks(partial(train, folder), 2)
