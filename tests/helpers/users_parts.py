"""Parts that a user brings: hooks, a metric, a collate function, detectors."""

import json
import os
import signal
from pathlib import Path

import numpy as np
from mmdet.models import FasterRCNN
from mmdet.registry import DATA_SAMPLERS, HOOKS, METRICS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import FUNCTIONS
from torch.optim import SGD, AdamW
from torch.utils.data import BatchSampler

from mmdet_largebatch.global_batch.seeding import MODEL, MicroBatch, SeededFetch, seed_generators


@HOOKS.register_module()
class DrawAsGlobalBatch(Hook):
    """Make stock MMEngine draw as the global batch does when a rank has one micro-batch."""

    def before_train(self, runner):
        loader = runner.train_dataloader
        if isinstance(loader.batch_sampler, KeyedBatchSampler):
            loader.dataset.__getitems__ = SeededFetch(loader.dataset)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        seed_generators((runner.seed, runner.iter, runner.rank), MODEL)


@DATA_SAMPLERS.register_module()
class KeyedBatchSampler(BatchSampler):
    """The batches of another batch sampler, or of none, with the key of their random draws."""

    def __init__(self, sampler, batch_size, drop_last=False, of=None):
        super().__init__(sampler, batch_size, drop_last)
        self.batches = BatchSampler(sampler, batch_size, drop_last)
        if of is not None:
            args = dict(sampler=sampler, batch_size=batch_size, drop_last=drop_last)
            self.batches = DATA_SAMPLERS.build(of, default_args=args)
        self.update = 0

    def __iter__(self):
        for batch in self.batches:
            yield MicroBatch(batch, (self.sampler.seed, self.update, self.sampler.rank))
            self.update += 1

    def __len__(self):
        return len(self.batches)


class Record(Hook):
    """Every point that a hook is called at, with the epoch, the update and what is handed over."""

    priority = 'LOWEST'

    def __init__(self):
        self.seen = []

    def note(self, point, runner, **given):
        entry = [point, runner.epoch, runner.iter, given.get('batch_idx')]
        if point.endswith('train_iter'):
            entry.append([sample.img_id for sample in given['data_batch']['data_samples']])
        if point == 'after_train_iter':
            entry.append({name: float(value) for name, value in given['outputs'].items()})
        if point == 'after_val_epoch':
            entry.append(given['metrics'])
        self.seen.append(entry)
        if point == 'after_run':
            Path(runner.work_dir, 'points.json').write_text(json.dumps(self.seen))


def _noting(point):
    return lambda self, runner, **given: self.note(point, runner, **given)


for _point in (
    *(f'{when}_{what}' for when in ('before', 'after') for what in ('run', 'train', 'val')),
    *(f'{when}_{what}' for when in ('before', 'after') for what in ('train_epoch', 'train_iter')),
    *(f'{when}_{what}' for when in ('before', 'after') for what in ('val_epoch', 'val_iter')),
    'before_save_checkpoint',
    'after_load_checkpoint',
):
    setattr(Record, _point, _noting(_point))
HOOKS.register_module(module=Record)


@HOOKS.register_module()
class Stop(Hook):
    """Signal this process after an update, or at the first batch of an epoch's evaluation."""

    priority = 'VERY_HIGH'

    def __init__(self, number='SIGTERM', update=None, evaluation=None, rank=0):
        self.number, self.update, self.evaluation = number, update, evaluation
        self.rank = rank

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.update and runner.rank == self.rank:
            os.kill(os.getpid(), signal.Signals[self.number])

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.epoch == self.evaluation and batch_idx == 0 and runner.rank == self.rank:
            os.kill(os.getpid(), signal.Signals[self.number])


@HOOKS.register_module()
class NanOnce(Hook):
    """One bad batch."""

    priority = 'VERY_HIGH'

    def __init__(self, update):
        self.update, self.done = update, False

    def before_update(self, runner, outputs):
        if runner.iter + 1 == self.update and not self.done:
            self.done = True
            outputs['loss'].fill_(float('nan'))


@HOOKS.register_module()
class UnfreezeBackbone(Hook):
    """Unfreeze the backbone, as MMDetection's how-to does; after a resume too."""

    def __init__(self, unfreeze_epoch=1):
        self.unfreeze_epoch = unfreeze_epoch

    def before_train_epoch(self, runner):
        backbone = getattr(runner.model, 'module', runner.model).backbone
        if runner.epoch >= self.unfreeze_epoch and backbone.frozen_stages >= 0:
            modules = [backbone.conv1, backbone.norm1]
            modules += [backbone.layer1, backbone.layer2][: backbone.frozen_stages]
            for module in modules:
                module.train()
                for p in module.parameters():
                    p.requires_grad = True
            backbone.frozen_stages = -1


@HOOKS.register_module()
class StopAfterEpochs(Hook):
    """End the training by the loop's own switch."""

    def __init__(self, epochs):
        self.epochs = epochs

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = runner.epoch + 1 == self.epochs


@METRICS.register_module()
class MeanScore(BaseMetric):
    """Mean score of all detections."""

    def process(self, data_batch, data_samples):
        self.results += [float(s) for d in data_samples for s in d['pred_instances']['scores']]

    def compute_metrics(self, results):
        return dict(mean_score=float(np.mean(results or [0.0])))


@METRICS.register_module()
class Given(BaseMetric):
    """The given values, one for each epoch from the first."""

    def __init__(self, values, **kwargs):
        super().__init__(**kwargs)
        self.values = values

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(given=self.values[MessageHub.get_current_instance().get_info('epoch')])


@FUNCTIONS.register_module()
def collate_reversed(samples):
    """The samples of a batch in reverse order."""
    return pseudo_collate(samples[::-1])


@FUNCTIONS.register_module()
def start_worker(worker_id, **kwargs):
    """A worker_init_fn of the user's own, which draws nothing."""


@MODELS.register_module()
class OwnStep(FasterRCNN):
    """A train_step of its own, in the terms of MMEngine's documentation."""

    def train_step(self, data, optim_wrapper):
        with optim_wrapper.optim_context(self):
            data = self.data_preprocessor(data, True)
            losses = self._run_forward(data, mode='loss')
        loss, log_vars = self.parse_losses(losses)
        optim_wrapper.zero_grad()
        optim_wrapper.backward(loss)
        optim_wrapper.step()
        log_vars['lr_seen'] = loss.new_tensor(optim_wrapper.get_lr()['lr'][0])
        return log_vars


@MODELS.register_module()
class TwoOptimizers(FasterRCNN):
    """A train_step with one optimizer for the backbone and another for the rest."""

    def train_step(self, data, optim_wrapper):
        losses = self._run_forward(self.data_preprocessor(data, True), mode='loss')
        loss, log_vars = self.parse_losses(losses)
        for wrapper in optim_wrapper.values():
            wrapper.zero_grad()
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
        return log_vars


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneAndRest:
    """The optimizers of TwoOptimizers, as MMEngine's documentation builds several."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        pass

    def __call__(self, model):
        rest = [p for name, p in model.named_parameters() if not name.startswith('backbone.')]
        sgd = SGD(model.backbone.parameters(), lr=0.02, momentum=0.9)
        return OptimWrapperDict(
            backbone=OptimWrapper(sgd), rest=OptimWrapper(AdamW(rest, lr=0.001))
        )


@MODELS.register_module()
class AbsentLoss(FasterRCNN):
    """A loss that is there only where a micro-batch has at least two objects on average."""

    def loss(self, batch_inputs, batch_data_samples):
        losses = super().loss(batch_inputs, batch_data_samples)
        objects = sum(len(sample.gt_instances) for sample in batch_data_samples)
        if objects >= 2 * len(batch_data_samples):
            losses['loss_many'] = 0.1 * losses['loss_bbox']
        return losses
