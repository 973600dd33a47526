"""Run by the tests: a training of several ranks in which a hook unfreezes a parameter.

    PYTHONPATH=tests python -m helpers.unfreezing OUT RANKS...

For each number of ranks, each rank writes its weights to OUT.RANKS.RANK.pth.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel

from helpers.forked import run_ranks
from helpers.regression import START, toy_runner


class Affine(BaseModel):
    """Mean of (w x + b - y)^2, with b frozen."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(START.clone())
        self.b = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x, y, mode='loss'):
        return dict(loss=((x @ self.w + self.b - y) ** 2).mean())


class Unfreeze(Hook):
    """As MMDetection's how-to has it, at the second of four epochs."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            getattr(runner.model, 'module', runner.model).b.requires_grad = True


def train(out: str, ranks: int) -> None:
    torch.set_num_threads(1)
    runner = toy_runner(
        Path(f'{out}.{ranks}.work'),
        Affine(),
        epochs=4,
        wrapper=dict(
            constructor='mmdet.MergedGroupsConstructor',
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
        ),
        hooks=[Unfreeze()],
        ranks=ranks,
    )
    model = runner.train()
    model = getattr(model, 'module', model)
    torch.save(model.state_dict(), f'{out}.{ranks}.{get_rank()}.pth')


if __name__ == '__main__':
    for ranks in map(int, sys.argv[2:]):
        job = partial(train, sys.argv[1], ranks)
        run_ranks(job, ranks) if ranks > 1 else job()
