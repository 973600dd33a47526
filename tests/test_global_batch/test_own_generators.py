"""Transforms that draw from a generator of their own are seeded where they can be, or named."""

import random

import numpy as np
import pytest
import torch
from helpers.regression import Log, Points, Regression, toy_runner
from helpers.small_training import log_of
from mmcv.transforms import BaseTransform, Compose
from mmdet.registry import TRANSFORMS

from mmdet_largebatch.global_batch.own_generators import own_generator_message


@TRANSFORMS.register_module(force=True)
class Noise(BaseTransform):
    """Draws as `Compose` of Albumentations 2 does, which no global seed reaches."""

    def __init__(self):
        self.set_random_seed(None)

    def set_random_seed(self, seed):
        self.random_generator = np.random.default_rng(seed)
        self.py_random = random.Random(seed)

    def transform(self, results):
        noise = self.random_generator.normal() + self.py_random.random()
        return dict(results, x=results['x'] + noise)


@TRANSFORMS.register_module(force=True)
class Unseeded(BaseTransform):
    """A user's transform with a generator and nothing to seed it."""

    def __init__(self, generator=None):
        self.generator = generator or np.random.default_rng()

    def transform(self, results):
        return dict(results, x=results['x'] + self.generator.normal())


class Augmented(Points):
    def __init__(self, *pipeline):
        super().__init__()
        self.pipeline = Compose(list(pipeline))

    def __getitem__(self, index):
        return self.pipeline(super().__getitem__(index))


def losses(folder, *pipeline, switch=(), workers=0, max_updates=None, resume=False):
    """Train 3 epochs of 2 updates on other pipelines from the second epoch on."""
    log = Log()
    switching = dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=list(switch))
    runner = toy_runner(
        folder,
        Regression(),
        3,
        3,
        data=dict(dataset=Augmented(*pipeline)),
        train_cfg=dict(global_batch_size=6, max_updates=max_updates),
        default_hooks=dict(checkpoint=dict(type='mmdet.AtomicCheckpointHook')),
        hooks=[log, *([switching] if switch else [])],
        resume=resume,
    )
    runner._train_dataloader['num_workers'] = workers
    runner.train()
    return log.losses


def test_seeded_by_the_micro_batch_on_any_number_of_workers_and_over_restarts(tmp_path):
    noise = dict(type='Noise')
    alone = losses(tmp_path / 'alone', noise, switch=[noise])
    two = losses(tmp_path / 'two', noise, switch=[dict(type='RandomApply', transforms=[noise])])
    assert losses(tmp_path / 'workers', noise, switch=[noise], workers=2) == alone
    first = losses(tmp_path / 'parts', noise, switch=[noise], max_updates=3)
    rest = losses(tmp_path / 'parts', noise, switch=[noise], resume=True)
    assert first + rest == alone
    # Another pipeline from the second epoch on, and another draw in each update.
    assert two[:2] == alone[:2] and two[2:] != alone[2:]
    assert len(set(alone)) == 6 and losses(tmp_path / 'none') != alone
    assert 'a generator of its own' not in log_of(tmp_path / 'alone')


def test_named_once_also_after_a_switch_of_the_pipeline(tmp_path):
    losses(tmp_path / 'run', dict(type='Noise'), switch=[dict(type='Unseeded')])
    log = log_of(tmp_path / 'run')
    line = 'Unseeded in train_dataloader.dataset draws from a generator of its own.'
    assert log.count(line) == 1 and log.index('Switch pipeline now!') < log.index(line)


@pytest.mark.parametrize(
    ('generator', 'named'),
    [
        (random.Random(0), True),
        (np.random.RandomState(0), True),
        (np.random.default_rng(0), True),
        (torch.Generator(), True),
        ([np.random.default_rng(0)], True),
        (np.random.random.__self__, False),
        (torch.default_generator, False),
        (np.random, False),
    ],
)
def test_kinds_of_generators(generator, named):
    message = own_generator_message([Augmented(dict(type='Unseeded', generator=generator))])
    assert (message is not None) == named
