"""A model that can be told to diverge, trained with the loop; one update an epoch."""

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from regression import Points, Regression


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


def make(
    tmp_path,
    hook,
    bad=None,
    epochs=8,
    micro_batch=2,
    wrapper=None,
    checkpoint=None,
    loop=None,
    **more,
):
    """A runner of Points: `epochs` updates, with the divergence hook's config given."""
    wrapper = dict(type=OptimWrapper, optimizer=dict(type='SGD', lr=0.1)) | (wrapper or {})
    return Runner(
        model=Fragile(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=micro_batch,
            num_workers=0,
            dataset=Points(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(type='mmdet.GlobalBatchTrainLoop', max_epochs=epochs, global_batch_size=12)
        | (loop or {}),
        optim_wrapper=wrapper,
        default_hooks=dict(
            logger=None,
            checkpoint=dict(type='mmdet.AtomicCheckpointHook', interval=2, **(checkpoint or {})),
            lr=dict(type='mmdet.WarmupStepLRHook', warmup_iters=0, milestones=[]),
            **({} if hook is None else dict(divergence=dict(type='mmdet.DivergenceHook', **hook))),
        ),
        custom_hooks=[bad] if bad else [],
        experiment_name=f'{tmp_path.parent.name}_{tmp_path.name}',
        randomness=dict(seed=0),
        **more,
    )
