"""A training that takes milliseconds, through MMEngine's own Runner: 3 epochs of 4 updates."""

import itertools

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS, DATASETS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

import mmdet_largebatch  # noqa: F401

run_number = itertools.count()


@MODELS.register_module()
class ScheduleToyModel(BaseModel):
    """Two layers, for groups that differ in their LR."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(1, 1)
        self.head = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        out = self.head(self.backbone(torch.stack(inputs)))
        return {'loss': out.square().mean()} if mode == 'loss' else list(out)


@DATASETS.register_module()
class ScheduleToyDataset(Dataset):
    """8 numbers, each with the picture size that AspectRatioBatchSampler reads."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {'inputs': torch.tensor([index / 8])}

    def get_data_info(self, index):
        return {'width': 2, 'height': 1}


@DATA_SAMPLERS.register_module()
class ScheduleToyBatchSampler:
    """Batches of 2 and 6, so no batch size."""

    def __init__(self, sampler, batch_size):
        self.sampler = sampler

    def __iter__(self):
        return iter([[0, 1], [2, 3, 4, 5, 6, 7]])

    def __len__(self):
        return 2


class LRRecorder(Hook):
    """The LR of every group of the optimizer, as each update finds it."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.lrs = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.lrs.append([group['lr'] for group in runner.optim_wrapper.optimizer.param_groups])

    @property
    def first(self):
        return [group_lrs[0] for group_lrs in self.lrs]


@pytest.fixture
def config(tmp_path):
    """A function that returns the toy config with settings of the hook, and others merged."""

    def make(hook=None, **others):
        loader = dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='ScheduleToyDataset'),
        )
        run = next(run_number)
        cfg = Config(
            dict(
                default_scope='mmdet',
                experiment_name=f'schedule_{run}',
                work_dir=str(tmp_path / str(run)),
                model=dict(type='ScheduleToyModel'),
                train_dataloader=loader,
                train_cfg=dict(by_epoch=True, max_epochs=3),
                optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0)),
                test_dataloader=loader,
                test_cfg=dict(),
                test_evaluator=[],
                default_hooks=dict(
                    lr=hook or dict(type='WarmupStepLRHook', milestones=[]),
                    checkpoint=dict(
                        type='CheckpointHook', interval=-1, by_epoch=False, save_last=False
                    ),
                ),
            )
        )
        cfg.merge_from_dict(others)
        return cfg

    return make


@pytest.fixture
def runner():
    """A function that builds a Runner, which records the LR of its updates."""

    def make(cfg):
        built = Runner.from_cfg(cfg)
        built.recorder = LRRecorder()
        built.register_hook(built.recorder)
        return built

    return make
