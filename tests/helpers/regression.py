"""A model whose gradient is known by hand, and its training with the loop."""

from itertools import count

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

import mmdet_largebatch  # noqa: F401

NUMBERS = count()
START = torch.tensor([1.0, -2.0, 0.5])


class Points(torch.utils.data.Dataset):
    """Twelve points x of dimension 3 with a target y."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
        self.y = torch.randn(12, generator=generator, dtype=torch.float64)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return dict(x=self.x[index].float(), y=self.y[index].float())


class Regression(BaseModel):
    """Mean of (w x - y)^2, with a draw beside it to see what the generator gives."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(START.clone())
        self.draws = []

    def forward(self, x, y, mode='loss'):
        self.draws.append(float(torch.rand(())))
        return dict(loss=((x @ self.w - y) ** 2).mean())


class Log(Hook):
    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss']))


def train(
    tmp_path,
    micro_batch,
    optim_wrapper=None,
    hooks=(),
    epochs=1,
    checkpoint=None,
    resume=False,
    **settings,
):
    """Train on all 12 points an update; SGD with LR 0.1, one update an epoch."""
    wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)) | (optim_wrapper or {})
    log = Log()
    runner = Runner(
        model=Regression(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=micro_batch,
            num_workers=0,
            dataset=Points(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(type='mmdet.GlobalBatchTrainLoop', max_epochs=epochs, global_batch_size=12)
        | settings,
        optim_wrapper=wrapper,
        default_hooks=dict(checkpoint=checkpoint, logger=None),
        custom_hooks=[log, *hooks],
        experiment_name=f'{tmp_path.parent.name}_{tmp_path.name}_{next(NUMBERS)}',
        resume=resume,
        default_scope='mmdet',
        randomness=dict(seed=0),
    )
    runner.train()
    return runner, log


def gradient(w=START):
    """d/dw of the mean of (w x - y)^2 over the 12 points, in float64."""
    points = Points()
    residual = points.x @ w.double() - points.y
    return 2 * (residual[:, None] * points.x).mean(0), float((residual**2).mean())
