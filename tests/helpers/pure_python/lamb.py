# ruff: noqa: F403, F405
from mmengine.config import read_base

with read_base():
    from .base import *

from mmdet_largebatch.global_batch import GlobalBatchTrainLoop
from mmdet_largebatch.hooks import (
    AtomicCheckpointHook,
    DivergenceHook,
    PreemptionHook,
    WarmupStepLRHook,
)
from mmdet_largebatch.optimizers import LAMB, MergedGroupsConstructor

train_cfg.update(type=GlobalBatchTrainLoop, max_epochs=2, global_batch_size=8)
default_hooks.update(
    lr=dict(type=WarmupStepLRHook, warmup_iters=2, milestones=[1]),
    checkpoint=dict(type=AtomicCheckpointHook, interval=1),
    preemption=dict(type=PreemptionHook),
    divergence=dict(type=DivergenceHook),
)
optim_wrapper = dict(
    type=OptimWrapper,
    constructor=MergedGroupsConstructor,
    optimizer=dict(type=LAMB, lr=0.01, weight_decay=1e-4),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = None
auto_scale_lr = None
randomness = dict(seed=0)
