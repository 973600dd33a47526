"""Trainings of detectors on some processes, one after the other.

A job holds `out`, `ranks` (processes; 1 is without DDP), `float64`, `resume` and `training`, the
arguments of `detectors.training`. Each rank writes the weights, buffers, EMA and state of the
optimizer, and the losses of each update: rank 0 to `out`, rank R to `out`.R. The losses under
MMEngine's own loop are means over the ranks.
"""

import os
import sys
from contextlib import redirect_stdout
from io import BytesIO
from multiprocessing import get_context

import torch
import torch._dynamo  # DDP imports it; once, before the ranks are forked
from mmdet.models.task_modules import AnchorGenerator, MlvlPointGenerator
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

import mmdet_largebatch  # noqa: F401
from helpers.common import leave_config_text
from helpers.detector_training import training
from helpers.float64 import select_in_float32
from helpers.forked import free_port, join_group
from mmdet_largebatch.cli import use_gloo_without_gpu


def compute_in_float64():
    """Compute in float64, also where the heads name float32."""
    select_in_float32()
    for generator in (AnchorGenerator, MlvlPointGenerator):
        for method in (generator.grid_priors, generator.single_level_grid_priors):
            method.__defaults__ = (torch.float64, *method.__defaults__[1:])
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    torch.save(torch.zeros(1), BytesIO())  # It notes the names of the types in its first call.
    torch.float = torch.float32 = torch.float64


class Losses(Hook):
    """Note the losses of each update, as the mean over the micro-batches."""

    def __init__(self, reduce):
        self.reduce, self.seen = reduce, []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        values = torch.tensor([float(value) for value in outputs.values()], dtype=torch.float64)
        if self.reduce:
            all_reduce(values, 'mean')
        self.seen.append(dict(zip(outputs, values.tolist(), strict=True)))


def train(job):
    torch.set_num_threads(1)
    leave_config_text()
    cfg = training(**job['training'])
    if job.get('float64'):
        cfg.model.data_preprocessor.type = 'Float64Preprocessor'
        compute_in_float64()
    cfg.launcher = 'pytorch' if job['ranks'] > 1 else 'none'
    use_gloo_without_gpu(cfg)
    cfg.resume = job.get('resume', False)
    cfg.experiment_name = os.path.basename(job['out'])
    runner = Runner.from_cfg(cfg)
    losses = Losses(reduce=cfg.train_cfg.type == 'EpochBasedTrainLoop')
    runner.register_hook(losses)
    runner.train()
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    state = dict(
        model=model.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
        schedulers=[scheduler.state_dict() for scheduler in runner.param_schedulers or []],
        losses=losses.seen,
        ema=[hook.ema_model.state_dict() for hook in runner.hooks if hasattr(hook, 'ema_model')],
    )
    torch.save(state, f'{job["out"]}.{runner.rank}' if runner.rank else job['out'])


def _rank(job, rank, port):
    if job['ranks'] > 1:
        join_group(rank, job['ranks'], port)
    with open(f'{job["out"]}.{rank}.log', 'w') as log, redirect_stdout(log):
        train(job)


def main(jobs):
    context = get_context('fork')
    for job in jobs:
        port = free_port()
        processes = [
            context.Process(target=_rank, args=(job, rank, port)) for rank in range(job['ranks'])
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        failed = [process.exitcode for process in processes if process.exitcode]
        if failed:
            sys.exit(f'{job["out"]}: {failed}')
