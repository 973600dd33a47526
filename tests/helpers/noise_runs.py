"""Trainings that measure the noise scale, on several numbers of processes."""

import json
from functools import partial
from pathlib import Path

import torch
from mmengine.hooks import Hook

from helpers.forked import run_ranks
from helpers.regression import Detector, Points, toy_runner
from mmdet_largebatch.hooks import NoiseScaleHook
from mmdet_largebatch.utils.runner import find_hook


class ManyPoints(Points):
    """240 points: 20 updates of 12 an epoch."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(240, 3, generator=generator, dtype=torch.float64)
        self.y = 3 + self.x.sum(1) + torch.randn(240, generator=generator, dtype=torch.float64)

    def __len__(self):
        return 240


class MicroBatches(Hook):
    """Note the weights before each update, and the points of each micro-batch."""

    def __init__(self):
        self.weights, self.batches = [], []

    def before_train(self, runner):
        forward = runner.model.forward

        def noted(x, y, mode='loss'):
            if torch.is_grad_enabled():  # not in the first update's pass without gradients
                self.batches[-1].append((x.double(), y.double()))
            return forward(x, y, mode)

        runner.model.forward = noted

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        state = runner.model.state_dict()
        self.weights.append({name: x.detach().double().clone() for name, x in state.items()})
        self.batches.append([])


def noise_runner(folder, noise=None, model=None, micro_batch=2, epochs=6, hooks=(), **more):
    """A runner of 12 points an update that measures the noise scale."""
    default_hooks = dict(noise_scale=dict(type='mmdet.NoiseScaleHook', interval=1) | (noise or {}))
    more['default_hooks'] = default_hooks | more.get('default_hooks', {})
    return toy_runner(
        folder,
        model or Detector(),
        micro_batch,
        epochs,
        hooks=hooks,
        **dict(wrapper=dict(optimizer=dict(type='SGD', lr=0.001))) | more,
    )


def written(folder):
    """The scalars of each measurement in the local backend, by update."""
    scalars = {}
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        for line in map(json.loads, path.read_text().splitlines()):
            if 'gradient_variance' in line:
                step = line.pop('step')
                assert step not in scalars
                scalars[step] = line
    return scalars


def train(out: str, ranks: int) -> None:
    torch.set_num_threads(1)
    runner = noise_runner(Path(f'{out}.{ranks}'), ranks=ranks, train_cfg=dict(exact_sum=True))
    runner.train()
    state = find_hook(runner, NoiseScaleHook).state_dict()
    Path(f'{out}.{ranks}.{runner.rank}.json').write_text(json.dumps(state))


def main(out, *ranks):
    for number in ranks:
        job = partial(train, out, number)
        run_ranks(job, number) if number > 1 else job()
