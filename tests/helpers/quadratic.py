"""A noisy quadratic as a config: ``custom_imports`` registers the model and the data."""

import numpy as np
import torch
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel

# Curvatures. The largest is 1, so that the edge of stability of SGD with momentum m is 2 (1 + m).
CURVATURES = np.logspace(-2, 0, 20)


@DATASETS.register_module()
class Draws(torch.utils.data.Dataset):
    """Points x around 0, each known by its number."""

    metainfo: dict = {}

    def __init__(self, count=240, spread=0.3):
        self.x = spread * np.random.default_rng(0).standard_normal((count, len(CURVATURES)))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return dict(x=torch.tensor(self.x[index], dtype=torch.float32))


@MODELS.register_module()
class Quadratic(BaseModel):
    """Mean over the points of a (w - x)^2 / 2, summed over the components of w."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.full((len(CURVATURES),), 3.0))
        self.register_buffer('curvatures', torch.tensor(CURVATURES, dtype=torch.float32))

    def forward(self, x, mode='loss'):
        losses = (self.curvatures * (self.w - x) ** 2 / 2).sum(1)
        return dict(loss=losses.mean()) if mode == 'loss' else list(losses)


@METRICS.register_module()
class MeanLoss(BaseMetric):
    """The mean loss, by the name of a detector's metric."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def process(self, data_batch, data_samples):
        self.results += map(float, data_samples)

    def compute_metrics(self, results):
        return {self.name: sum(results) / len(results)}


def config(lr=0.05, momentum=0.9, micro_batch=4, global_batch=8, warmup=10):
    """Text of a config: 30 updates of 8 points an epoch, 4 epochs."""
    return f"""
default_scope = 'mmdet'
custom_imports = dict(
    imports=['mmdet_largebatch', 'helpers.quadratic'], allow_failed_imports=False
)
model = dict(type='Quadratic')
train_dataloader = dict(
    batch_size={micro_batch},
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(type='Draws'),
)
train_cfg = dict(
    type='GlobalBatchTrainLoop', max_epochs=4, global_batch_size={global_batch}, exact_sum=True
)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr={lr}, momentum={momentum})
)
default_hooks = dict(
    logger=dict(type='LoggerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', interval=1),
    preemption=dict(type='PreemptionHook'),
    lr=dict(type='WarmupStepLRHook', warmup_iters={warmup}, milestones=[3]),
)
env_cfg = dict(dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
"""
