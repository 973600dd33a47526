"""Trainings one after the other, each on a number of processes of its own.

They have a `config` (a recipe). Each has `ranks` (1 is one process without DDP) and `options` (as
for `--cfg-options`). Every rank writes its weights to WORK_DIR/rank_RANK.pth.
"""

import sys
from functools import partial
from multiprocessing import get_context

import torch
from mmengine.config import Config
from mmengine.runner import Runner

import mmdet_largebatch  # noqa: F401
from helpers.common import leave_config_text
from helpers.forked import run_ranks
from mmdet_largebatch.cli import use_gloo_without_gpu


def train(config, ranks, options):
    torch.set_num_threads(1)
    leave_config_text()
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = (64, 64)
    cfg.launcher = 'pytorch' if ranks > 1 else 'none'
    use_gloo_without_gpu(cfg)
    runner = Runner.from_cfg(cfg)
    model = runner.train()
    model = getattr(model, 'module', model)
    torch.save(model.state_dict(), f'{cfg.work_dir}/rank_{runner.rank}.pth')


def main(config, runs):
    for run in runs:
        function = partial(train, config, **run)
        if run['ranks'] > 1:
            function = partial(run_ranks, function, run['ranks'])
        process = get_context('fork').Process(target=function)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
