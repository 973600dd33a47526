"""A model that can be told to diverge, trained with the loop; one update an epoch."""

import torch
from mmengine.hooks import Hook

from helpers.regression import Regression, toy_runner


class Bad(Hook):
    """Spoil the update of one number: its loss, or its gradient alone."""

    def __init__(self, update, what='loss', value=float('nan'), times=1):
        self.update, self.what, self.value, self.times = update, what, value, times

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        model = runner.model
        model.spoil_loss = model.spoil_gradient = None
        if runner.iter + 1 == self.update and self.times > 0:
            self.times -= 1
            setattr(model, f'spoil_{self.what}', self.value)


class _Spoilt(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx, x, value):
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.value, None


class Fragile(Regression):
    spoil_loss = spoil_gradient = None

    def forward(self, x, y, mode='loss'):
        loss = super().forward(x, y, mode)['loss']
        if self.spoil_loss is not None:
            loss = loss * self.spoil_loss
        if self.spoil_gradient is not None:
            loss = _Spoilt.apply(loss, self.spoil_gradient)
        return dict(loss=loss)


def make(folder, hook, bad=None, epochs=8, checkpoint=None, **more):
    """A runner of Points: `epochs` updates, with the divergence hook's config given."""
    default_hooks = dict(
        checkpoint=dict(type='mmdet.AtomicCheckpointHook', interval=2, **(checkpoint or {})),
        lr=dict(type='mmdet.WarmupStepLRHook', warmup_iters=0, milestones=[]),
        **({} if hook is None else dict(divergence=dict(type='mmdet.DivergenceHook', **hook))),
    )
    hooks = [bad] if bad else []
    return toy_runner(
        folder, Fragile(), epochs=epochs, default_hooks=default_hooks, hooks=hooks, **more
    )
