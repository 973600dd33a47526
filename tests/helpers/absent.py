"""Run by the tests: trainings of several ranks in which micro-batches lack one of two losses.

    PYTHONPATH=tests python -m helpers.absent OUT

Micro-batch j of each update holds points j and j + 6. Of N ranks, rank R writes to OUT.N.R.pth the
weights and the logged values of each case of CASES.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from mmengine.dist import get_rank
from mmengine.model import BaseModel

from helpers.forked import run_ranks
from helpers.regression import START, Log, Points, toy_runner

# 2 ranks with 3 micro-batches each; 4 ranks with 2, 2, 1 and 1.
RANKS = (2, 4)
UPDATES = 3
# Micro-batches that have the second loss, in each of the three updates.
CASES = {
    'first': [{0}] * 3,
    'last': [{5}] * 3,
    'none': [set()] * 3,
    'a new one later': [set(), {1, 2}, {3}],
    'gone later': [{0, 1, 2, 3, 4, 5}, {4}, set()],
    'one rank of two': [{1, 3, 5}, {0, 2, 4}, {2}],
}


class TwoHeads(BaseModel):
    """Mean of (w x - y)^2, and that of (v x - y)^2 for micro-batches that have it."""

    def __init__(self, having):
        super().__init__()
        self.w = torch.nn.Parameter(START.clone())
        self.v = torch.nn.Parameter(-START)
        self.having, self.update = having, 0

    def forward(self, x, y, number, mode='loss'):
        values = dict(loss_w=((x @ self.w - y) ** 2).mean())
        if int(number[0]) in self.having[self.update]:
            values['loss_v'] = ((x @ self.v - y) ** 2).mean()
        return values


class Numbered(Points):
    """The points, each with the number of its micro-batch."""

    def __getitem__(self, index):
        return super().__getitem__(index) | dict(number=index % 6)


class Watch(Log):
    """Tell the model the update; note every value that is logged."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        getattr(runner.model, 'module', runner.model).update = runner.iter

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: float(value) for name, value in outputs.items()})


def train(folder, having, ranks):
    watch = Watch()
    runner = toy_runner(
        folder,
        TwoHeads(having),
        epochs=UPDATES,
        data=dict(dataset=Numbered(), shuffle=False),
        hooks=[watch],
        ranks=ranks,
        ddp=dict(find_unused_parameters=True),
    )
    model = runner.train()
    model = getattr(model, 'module', model)
    return model.w.detach(), model.v.detach(), watch.losses


def train_all(out, ranks):
    torch.set_num_threads(1)
    found = {
        name: train(Path(f'{out}.work/{name.replace(" ", "_")}_{ranks}'), having, ranks)
        for name, having in CASES.items()
    }
    torch.save(found, f'{out}.{ranks}.{get_rank()}.pth')


if __name__ == '__main__':
    for ranks in RANKS:
        run_ranks(partial(train_all, sys.argv[1], ranks), ranks)
