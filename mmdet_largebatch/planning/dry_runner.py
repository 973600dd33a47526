"""Build the objects of a training up to its first update, as one of any number of ranks.

A plan is read from these objects, so it cannot differ from the training. A setting that the
training would refuse is refused here with the same message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import ParamSchedulerHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import Dataset

from ..checks import check
from ..errors import SettingError
from ..global_batch import GlobalBatchTrainLoop
from ..hooks import DivergenceHook, NoiseScaleHook, WarmupStepLRHook
from ..utils.runner import find_hook
from ..utils.type_names import type_name
from .quiet_runner import QuietRunner, restored_globals


class CountedImages(Dataset):
    """A dataset of a known number of images, which reads none.

    Args:
        images (int): The number of images.
    """

    metainfo: dict = {}

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images


class DryRunner(QuietRunner):
    """Runner that builds a training, computes nothing and writes no file.

    The model has no weights: it is on PyTorch's meta device, or on the CPU where it cannot be built
    there. It is not wrapped by DDP.
    """

    _train_loop: Any
    optim_wrapper: Any
    param_schedulers: Any
    # Of the LR, by `auto_scale_lr` or `scale_rule`.
    lr_scale: float
    # Index of a parameter group with the LR of the optimizer, if there is one, and trained.
    base_group: int

    def build_model(self, model: dict) -> nn.Module:
        """Build the model, without memory for its weights where the model permits it."""
        try:
            with torch.device('meta'):
                return super().build_model(deepcopy(model))
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            # The model reads a tensor while it is built. A wrong config raises again here.
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Return the model as it is."""
        return model

    def prepare(self) -> None:
        """Do the part of ``Runner.train`` that precedes the first update and concerns the LR.

        Raises:
            SettingError: If the training would be refused, or cannot be planned.
        """
        self._train_loop = loop = self.build_train_loop(self._train_loop)
        wanted = 'GlobalBatchTrainLoop or EpochBasedTrainLoop to be planned, which have epochs'
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        check(by_epoch, 'train_cfg.type', type(loop).__name__, wanted)
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if isinstance(self.optim_wrapper, OptimWrapperDict):
            raise SettingError(
                f'optim_wrapper has several optimizers ({", ".join(self.optim_wrapper.keys())}). '
                'Must be one to be planned.'
            )
        groups = self.optim_wrapper.optimizer.param_groups
        configured = [group['lr'] for group in groups]
        self.scale_lr(self.optim_wrapper, self.auto_scale_lr)
        scaled = [group['lr'] for group in groups]
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        hook = find_hook(self, WarmupStepLRHook)
        if hook is not None:
            hook.before_run(self)
            scaled = [group['initial_lr'] for group in groups]
        pairs = zip(configured, scaled, strict=True)
        self.lr_scale = next((after / before for before, after in pairs if before), 1.0)
        base = self.optim_wrapper.optimizer.defaults['lr']
        trained = [any(p.requires_grad for p in group['params']) for group in groups]
        keys = [(lr == base, here) for lr, here in zip(configured, trained, strict=True)]
        self.base_group = keys.index(max(keys))
        for checking in self.hooks:
            if isinstance(checking, (DivergenceHook, NoiseScaleHook)):
                checking.before_run(self)
        if isinstance(loop, GlobalBatchTrainLoop):
            loop.check()

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build schedulers. A value that they refuse is a wrong setting."""
        try:
            return super().build_param_scheduler(scheduler)
        except ValueError as error:
            raise SettingError(f'param_scheduler: {error}.') from error

    def step_schedulers(self, base_lr: float, accumulated: int) -> np.ndarray:
        """Step MMEngine's schedulers by its hook.

        They step at every iteration of the loop, on an optimizer of one parameter group here, with
        the values of ``base_group``. The LR of an update is that of its last iteration.

        Args:
            base_lr (float): LR of the optimizer.
            accumulated (int): Iterations of an update.

        Returns:
            np.ndarray: LR of each update.

        Raises:
            SettingError: If a schedule is shorter than the training, and refuses to go on.
        """
        loop, lrs = self.train_loop, []
        config, stepper = self.cfg.get('param_scheduler'), find_hook(self, ParamSchedulerHook)
        if config is None or stepper is None:
            return np.full(-(-loop.max_iters // accumulated), base_lr)
        built = self.optim_wrapper, self.param_schedulers
        optimizer = torch.optim.SGD([torch.zeros(())], lr=base_lr)
        self.optim_wrapper = OptimWrapper(optimizer)
        configs = [config] if isinstance(config, dict) else config
        self.param_schedulers = self.build_param_scheduler([self._of_group(x) for x in configs])
        # PyTorch's warning is due where a scheduler steps first. This step changes nothing.
        self.optim_wrapper.step()
        for iteration in range(1, loop.max_iters + 1):
            if iteration % accumulated == 0 or iteration == loop.max_iters:
                lrs.append(optimizer.param_groups[0]['lr'])
            try:
                stepper.after_train_iter(self, iteration)
                if iteration % len(loop.dataloader) == 0:
                    stepper.after_train_epoch(self)
            except ValueError as error:
                line = f'{error}, and the training has {loop.max_iters:,} iterations'
                raise SettingError(f'param_scheduler: {line}.') from error
        self.optim_wrapper, self.param_schedulers = built
        return np.array(lrs)

    def _of_group(self, scheduler: dict[str, Any]) -> dict[str, Any]:
        """Return the config of a scheduler for ``base_group`` alone."""
        values = {name: scheduler.get(name) for name in ('eta_max', 'min_value')}
        several = {name: x for name, x in values.items() if isinstance(x, (list, tuple))}
        return dict(scheduler, **{name: x[self.base_group] for name, x in several.items()})


@contextmanager
def dry_run(cfg: Config, ranks: int, images: int | None) -> Iterator[DryRunner]:
    """Prepare a :class:`DryRunner` as rank 0 of ``ranks``, over PyTorch's fake process group.

    Args:
        cfg (Config): The config; it is not changed.
        ranks (int): Number of ranks.
        images (int, optional): Number of training images; None reads the dataset.

    Yields:
        DryRunner: The runner.

    Raises:
        SettingError: If the training would be refused.
    """
    for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise SettingError(f'{key} is not set. Must be, for a training to plan.')
    cfg = _harmless(cfg)
    if images is not None:
        sampler = type_name(cfg.train_dataloader.get('sampler'))
        wanted = (
            f'left out with train_dataloader.sampler.type={sampler or None}, which reads the '
            'dataset; only DefaultSampler does not'
        )
        check(sampler == 'DefaultSampler', '--images', images, wanted)
        cfg.train_dataloader.dataset = dict(type=CountedImages, images=images)
    dist.init_process_group('fake', rank=0, world_size=ranks, store=FakeStore())
    try:
        with TemporaryDirectory() as folder, restored_globals():
            cfg.work_dir, cfg.experiment_name = folder, Path(folder).name
            runner = DryRunner.from_cfg(cfg)
            runner.prepare()
            yield runner
    finally:
        dist.destroy_process_group()


def _harmless(cfg: Config) -> Config:
    """Copy a config so that it starts no processes and needs no GPU."""
    cfg = deepcopy(cfg)
    cfg.launcher, cfg.resume, cfg.load_from = 'none', False, None
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])
    loader = cfg.train_dataloader
    loader.num_workers, loader.persistent_workers = 0, False
    for key in ('prefetch_factor', 'timeout', 'multiprocessing_context'):
        loader.pop(key, None)
    # These cannot be built without a GPU. They change neither groups nor state.
    wrapper = cfg.optim_wrapper
    if type_name(wrapper) == 'AmpOptimWrapper':
        wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
    if wrapper.get('optimizer', {}).get('backend') == 'apex':
        wrapper.optimizer.backend = 'auto'
    return cfg
