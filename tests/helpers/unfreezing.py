"""Run by the tests: a training of several ranks in which a hook unfreezes a parameter.

    PYTHONPATH=tests python -m helpers.unfreezing OUT RANKS

Each rank writes its weights to OUT.RANK.pth.
"""

import sys

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

import mmdet_largebatch  # noqa: F401
from helpers.forked import run_ranks
from helpers.regression import START, Points


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
    runner = Runner(
        model=Affine(),
        work_dir=f'{out}.work',
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=Points(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(type='mmdet.GlobalBatchTrainLoop', max_epochs=4, global_batch_size=12),
        optim_wrapper=dict(
            type='OptimWrapper',
            constructor='mmdet.MergedGroupsConstructor',
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
        ),
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[Unfreeze()],
        launcher='pytorch' if ranks > 1 else 'none',
        cfg=dict(
            model_wrapper_cfg=dict(type='mmengine.MMDistributedDataParallel', device_ids=None)
        ),
        default_scope='mmdet',
        randomness=dict(seed=0),
    )
    model = runner.train()
    model = getattr(model, 'module', model)
    torch.save(model.state_dict(), f'{out}.{get_rank()}.pth')


if __name__ == '__main__':
    out, ranks = sys.argv[1], int(sys.argv[2])
    if ranks == 1:
        train(out, 1)
    else:
        run_ranks(lambda: train(out, ranks), ranks)
