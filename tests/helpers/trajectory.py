"""A training on some processes that writes what every micro-batch was.

Its settings are `ranks`, `config` (a recipe), `options` (as for `--cfg-options`), `float64` and
`stop_after` (updates; the process ends there). Each rank writes OUT.RANK.json; rank 0 writes the
final weights to OUT.pth.
"""

import json
import sys
from functools import partial

import torch
from mmcv.transforms import LoadImageFromFile
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import BaseSampler
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmdet_largebatch  # noqa: F401
from helpers.common import leave_config_text
from helpers.float64 import select_in_float32
from helpers.forked import run_ranks
from mmdet_largebatch.cli import use_gloo_without_gpu


class Record(Hook):
    """Note the contents of each micro-batch, and the losses of each update."""

    def __init__(self):
        self.micro_batches, self.losses, self.reads, self.draws = {}, [], [], []
        self.share, self.count = [], 0

    def before_train(self, runner):
        self.share = runner.train_loop.sampler.share
        self.loop = runner.train_loop

    def key(self):
        """Called once a micro-batch, in the order that the rank computes them."""
        number = self.share[self.count % len(self.share)]
        self.count += 1
        return f'{self.loop.iter}/{number}'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: float(value) for name, value in outputs.items()})


class StopAfter(Hook):
    priority = 'VERY_LOW'

    def __init__(self, updates):
        self.updates = updates

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.updates:
            sys.exit()


def record_into(record):
    """Note the pictures and flips that a RoI head is given, the anchors that the RPN and the RoIs
    that the head sampled; and the pictures that are read in this process, which is all of them
    without data workers."""
    read = LoadImageFromFile.transform

    def transform(self, results):
        record.reads.append(results['img_id'])
        return read(self, results)

    LoadImageFromFile.transform = transform
    sample = BaseSampler.sample

    def recorded_sample(self, *args, **kwargs):
        result = sample(self, *args, **kwargs)
        if torch.is_grad_enabled():
            record.draws.append([result.pos_inds.tolist(), result.neg_inds.tolist()])
        return result

    BaseSampler.sample = recorded_sample
    loss = StandardRoIHead.loss

    def roi_loss(self, x, rpn_results_list, batch_data_samples):
        # The first update has a pass without gradients before it.
        if not torch.is_grad_enabled():
            return loss(self, x, rpn_results_list, batch_data_samples)
        found = record.micro_batches[record.key()] = dict(
            pictures=[sample.img_id for sample in batch_data_samples],
            flips=[sample.flip for sample in batch_data_samples],
            anchors=record.draws.copy(),
        )
        record.draws.clear()
        losses = loss(self, x, rpn_results_list, batch_data_samples)
        found['rois'] = record.draws.copy()
        record.draws.clear()
        return losses

    StandardRoIHead.loss = roi_loss


def train(out, settings):
    torch.set_num_threads(1)
    leave_config_text()
    cfg = Config.fromfile(settings['config'])
    cfg.merge_from_dict(settings['options'])
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = (64, 64)
    if settings.get('float64'):
        torch.set_default_dtype(torch.float64)
        cfg.model.data_preprocessor.type = 'Float64Preprocessor'
        select_in_float32()
    cfg.launcher = 'pytorch' if settings['ranks'] > 1 else 'none'
    use_gloo_without_gpu(cfg)
    record = Record()
    record_into(record)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(record)
    if settings.get('stop_after'):
        runner.register_hook(StopAfter(settings['stop_after']))
    runner.train()
    written = dict(micro_batches=record.micro_batches, losses=record.losses, reads=record.reads)
    with open(f'{out}.{runner.rank}.json', 'w') as file:
        json.dump(written, file)
    if runner.rank == 0:
        model = runner.model.module if cfg.launcher != 'none' else runner.model
        torch.save(model.state_dict(), f'{out}.pth')


def main(out, settings):
    """Train on some processes; 1 is this one, without DDP."""
    job = partial(train, out, settings)
    run_ranks(job, settings['ranks']) if settings['ranks'] > 1 else job()
