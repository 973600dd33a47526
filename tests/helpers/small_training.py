"""A small model with batch norm and an evaluation, trained by the loop; two updates an epoch."""

import os
import signal

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel

from helpers.regression import loader, toy_runner


class Net(BaseModel):
    def __init__(self, width=4):
        super().__init__()
        self.first = torch.nn.Linear(3, width)
        self.norm = torch.nn.BatchNorm1d(width)
        self.last = torch.nn.Linear(width, 1)
        generator = torch.Generator().manual_seed(0)
        for p in self.parameters():
            p.data.copy_(torch.randn(p.shape, generator=generator) / 2)

    def forward(self, x, y, mode='loss'):
        error = (self.last(self.norm(self.first(x)))[:, 0] - y) ** 2
        return dict(loss=error.mean()) if mode == 'loss' else list(error)


class Error(BaseMetric):
    """The mean squared error, or what a test says it is."""

    scripted = None

    def process(self, data_batch, data_samples):
        self.results += [float(x) for x in data_samples]

    def compute_metrics(self, results):
        error = sum(results) / len(results)
        return dict(error=error if self.scripted is None else self.scripted.pop(0))


class Tell(Hook):
    """Send SIGTERM after an update, or within the evaluation after so many."""

    priority = 'VERY_HIGH'

    def __init__(self, update=None, in_evaluation=None):
        self.update, self.in_evaluation = update, in_evaluation

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.update:
            os.kill(os.getpid(), signal.SIGTERM)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.in_evaluation:
            os.kill(os.getpid(), signal.SIGTERM)


class NanOnce(Hook):
    priority = 'VERY_HIGH'

    def __init__(self, update):
        self.update = update

    def before_update(self, runner, outputs):
        if runner.iter + 1 == self.update:
            self.update = None
            outputs['loss'].fill_(float('nan'))


class Evaluations(Hook):
    """A user's hook that counts, and scales the loss's gradient by its count."""

    count = 0

    def after_val_epoch(self, runner, metrics=None):
        self.count += 1

    def before_update(self, runner, outputs):
        for p in runner.model.parameters():
            p.grad *= 1 + self.count

    def state_dict(self):
        return dict(count=self.count)

    def load_state_dict(self, state):
        self.count = state['count']


class SwapsBeforeVal(Hook):
    """A user's hook that has other weights in the model from `before_val` to `after_val`."""

    priority = 'HIGHEST'

    def before_val(self, runner):
        for p in runner.model.parameters():
            p.data.neg_()

    after_val = before_val


def make(
    folder,
    hooks=(),
    model=None,
    optimizer=None,
    wrapper=None,
    checkpoint=None,
    divergence=None,
    epochs=4,
    lr_hook=None,
    preemption=True,
    train_cfg=None,
    val=True,
    **more,
):
    """A runner of 12 points in global batches of 6."""
    default_hooks = dict(
        checkpoint=dict(type='mmdet.AtomicCheckpointHook', interval=2) | (checkpoint or {}),
        lr=dict(type='mmdet.WarmupStepLRHook', warmup_iters=3, milestones=[3]) | (lr_hook or {}),
    )
    if divergence is not False:
        default_hooks['divergence'] = dict(type='mmdet.DivergenceHook', **(divergence or {}))
    if preemption:
        default_hooks['preemption'] = dict(type='mmdet.PreemptionHook')
    if 'param_scheduler' in more:
        del default_hooks['lr']
    if val:
        more |= dict(
            val_dataloader=loader(6, shuffle=False),
            val_cfg=dict(type='ValLoop'),
            val_evaluator=dict(type=Error),
        )
    sgd = dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-3)
    return toy_runner(
        folder,
        model or Net(),
        3,
        epochs,
        train_cfg=dict(global_batch_size=6) | (train_cfg or {}),
        wrapper=dict(optimizer=sgd if optimizer is None else optimizer) | (wrapper or {}),
        default_hooks=default_hooks,
        hooks=hooks,
        **more,
    )


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def same(a, b):
    """Return True if two values are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def log_of(folder):
    return ''.join(path.read_text() for path in sorted(folder.glob('*/*.log')))


def resume_lines(folder):
    lines = log_of(folder).splitlines()
    return [line.split('Resume: ', 1)[1] for line in lines if 'Resume: ' in line]
