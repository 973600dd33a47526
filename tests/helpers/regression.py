"""The toy training: a model whose gradient is known by hand, trained with the loop."""

from itertools import count

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

import mmdet_largebatch  # noqa: F401

NUMBERS = count()
START = torch.tensor([1.0, -2.0, 0.5])


class Points(torch.utils.data.Dataset):
    """Twelve points x of dimension 3 with a target y."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
        self.y = torch.randn(12, generator=generator, dtype=torch.float64)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return dict(x=self.x[index].float(), y=self.y[index].float())


class Regression(BaseModel):
    """Mean of (w x - y)^2, with a draw beside it to see what the generator gives."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(START.clone())
        self.draws = []

    def forward(self, x, y, mode='loss'):
        self.draws.append(float(torch.rand(())))
        return dict(loss=((x @ self.w - y) ** 2).mean())


def every_second_step(self, data, optim_wrapper):
    """A `train_step` that steps in every second update of 6 micro-batches, with both gradients."""
    with optim_wrapper.optim_context(self):
        losses = self(**self.data_preprocessor(data, True))
    optim_wrapper.backward(losses['loss'])
    self.calls = getattr(self, 'calls', -1) + 1
    if self.calls // 6 % 2:
        optim_wrapper.step()
        optim_wrapper.zero_grad()
    return losses


class Detector(BaseModel):
    """A component of three weights, one of a single weight within a RoI head, and biases."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [torch.nn.Linear(3, 5), torch.nn.Linear(5, 4), torch.nn.Linear(4, 4)]
        self.backbone = torch.nn.Sequential(*layers)
        self.roi_head = torch.nn.ModuleDict({'bbox_head': torch.nn.Linear(4, 1)})

    def forward(self, x, y, mode='loss'):
        out = self.roi_head['bbox_head'](self.backbone(x))[:, 0]
        return dict(loss=((out - y) ** 2).mean())


class Log(Hook):
    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss']))


def loader(batch_size, dataset=None, shuffle=True, workers=0):
    """Config of a dataloader; of Points unless another data set is given."""
    return dict(
        batch_size=batch_size,
        num_workers=workers,
        dataset=dataset or Points(),
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        collate_fn=dict(type='default_collate'),
    )


def toy_runner(
    folder,
    model,
    micro_batch=2,
    epochs=1,
    data=None,
    train_cfg=None,
    wrapper=None,
    default_hooks=None,
    hooks=(),
    ranks=1,
    ddp=None,
    **more,
):
    """Build the runner that all toy trainings share: the loop, SGD with LR 0.1, no log.

    Args:
        folder (Path): Work folder.
        model (BaseModel): Model.
        micro_batch (int): Points of a micro-batch. Defaults to 2.
        epochs (int): Epochs, of one update each unless `train_cfg` says otherwise. Defaults to 1.
        data (dict, optional): Arguments of `loader`.
        train_cfg (dict, optional): Further settings of the loop; None removes one.
        wrapper (dict, optional): Further settings of the optimizer wrapper.
        default_hooks (dict, optional): Further default hooks; there is no checkpoint otherwise.
        hooks (Sequence[Hook]): Custom hooks.
        ranks (int): Ranks on gloo; above 1 there must be a process group.
        ddp (dict, optional): Further settings of DDP, which is then used on 1 rank too.
        **more (object): Further arguments of the runner.
    """
    if ranks > 1 or ddp:
        ddp = dict(type='mmengine.MMDistributedDataParallel', device_ids=None) | (ddp or {})
        more |= dict(launcher='pytorch', cfg=dict(model_wrapper_cfg=ddp))
    loop = dict(type='mmdet.GlobalBatchTrainLoop', max_epochs=epochs, global_batch_size=12)
    loop |= train_cfg or {}
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=loader(micro_batch, **(data or {})),
        train_cfg={key: value for key, value in loop.items() if value is not None},
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
        | (wrapper or {}),
        default_hooks=dict(checkpoint=None, logger=None) | (default_hooks or {}),
        custom_hooks=list(hooks),
        experiment_name=f'{folder.parent.name}_{folder.name}_{next(NUMBERS)}',
        default_scope='mmdet',
        randomness=dict(seed=0) | more.pop('randomness', {}),
        **more,
    )


def train(
    folder,
    micro_batch,
    optim_wrapper=None,
    hooks=(),
    epochs=1,
    checkpoint=None,
    resume=False,
    **settings,
):
    """Train Regression on all 12 points an update, one update an epoch."""
    log = Log()
    runner = toy_runner(
        folder,
        Regression(),
        micro_batch,
        epochs,
        train_cfg=settings,
        wrapper=optim_wrapper,
        default_hooks=dict(checkpoint=checkpoint),
        hooks=[log, *hooks],
        resume=resume,
    )
    runner.train()
    return runner, log


def gradient(w=START):
    """d/dw of the mean of (w x - y)^2 over the 12 points, in float64."""
    points = Points()
    residual = points.x @ w.double() - points.y
    return 2 * (residual[:, None] * points.x).mean(0), float((residual**2).mean())
