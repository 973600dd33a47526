"""Prepare a Runner up to the start of its training, as one of any number of ranks.

The plan is read off the objects that a training builds (model, loader, loop, optimizer, schedule),
so that it cannot differ from the training, and a setting that the training would refuse is refused
here in the same words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import OptimWrapperDict
from mmengine.registry import DefaultScope
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.visualization import Visualizer
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import Dataset

from ..errors import SettingError
from ..global_batch import GlobalBatchTrainLoop
from ..hooks import WarmupStepLRHook
from ..utils.runner import find_hook
from ..utils.type_names import type_name

# Of which a Runner leaves an instance behind as MMEngine's current one.
GLOBALS = (DefaultScope, MMLogger, MessageHub, Visualizer)


class CountedImages(Dataset):
    """Stands in for a dataset of which the number of images is known and nothing is read.

    Args:
        images (int): The number of images.
    """

    metainfo: dict = {}

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images


class DryRunner(Runner):
    """Builds what a training builds, in its order; computes nothing and keeps no file.

    The model has no weights (it is on PyTorch's meta device, or on the CPU where it cannot be built
    there), and is not wrapped by DDP.
    """

    _train_loop: Any
    optim_wrapper: Any
    param_schedulers: Any

    def build_model(self, model: dict) -> nn.Module:
        """Build the model without memory for its weights, if it allows that.

        Args:
            model (dict): The config's ``model``.

        Returns:
            nn.Module: The model, its weights not initialised.
        """
        try:
            with torch.device('meta'):
                return super().build_model(deepcopy(model))
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            # It reads a tensor back while it is built; or it is wrong, then this raises too.
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Leave the model as it is.

        Args:
            model_wrapper_cfg (dict, optional): Not used.
            model (nn.Module): The model.

        Returns:
            nn.Module: The same.
        """
        return model

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Return a logger without a file, which logs errors alone.

        Args:
            *args: Not used.
            **kwargs: Not used.

        Returns:
            MMLogger: The logger.
        """
        return MMLogger.get_instance(self.experiment_name, log_level='ERROR')

    def dump_config(self) -> None:
        """Write nothing."""

    def _log_env(self, env_cfg: dict) -> None:
        """Ask for nothing: it would start programs to find out their versions."""

    def prepare(self) -> None:
        """Do what ``Runner.train`` does before the first update, as far as the LR is concerned.

        Raises:
            SettingError: If the training would be refused, or has no epochs to count in.
        """
        self._train_loop = loop = self.build_train_loop(self._train_loop)
        if not isinstance(loop, EpochBasedTrainLoop):
            raise SettingError(
                f'train_cfg.type={type(loop).__name__}. Must be GlobalBatchTrainLoop or '
                'EpochBasedTrainLoop to be planned, which have epochs to count in.'
            )
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        if isinstance(self.optim_wrapper, OptimWrapperDict):
            raise SettingError(
                f'optim_wrapper has several optimizers ({", ".join(self.optim_wrapper.keys())}). '
                'Must be one to be planned.'
            )
        self.configured_lrs = [group['lr'] for group in self.optim_wrapper.optimizer.param_groups]
        self.scale_lr(self.optim_wrapper, self.auto_scale_lr)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        hook = find_hook(self, WarmupStepLRHook)
        if hook is not None:
            hook.before_run(self)
        if isinstance(loop, GlobalBatchTrainLoop):
            loop.check()


@contextmanager
def dry_run(cfg: Config, ranks: int, images: int | None) -> Iterator[DryRunner]:
    """Prepare a :class:`DryRunner` as rank 0 of ``ranks``.

    PyTorch's fake process group, which communicates nothing, says so to MMEngine.

    Args:
        cfg (Config): The config; it is not changed.
        ranks (int): Number of ranks.
        images (int, optional): Number of images to train on; None reads the dataset.

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
        if sampler != 'DefaultSampler':
            raise SettingError(
                f'--images={images} goes with train_dataloader.sampler.type=DefaultSampler alone, '
                f'and {sampler or None} reads the dataset. Must be left out.'
            )
        cfg.train_dataloader.dataset = dict(type=CountedImages, images=images)
    before = {kind: set(kind._instance_dict) for kind in GLOBALS}
    dist.init_process_group('fake', rank=0, world_size=ranks, store=FakeStore())
    try:
        with TemporaryDirectory() as folder:
            cfg.work_dir, cfg.experiment_name = folder, Path(folder).name
            runner = DryRunner.from_cfg(cfg)
            runner.prepare()
            yield runner
    finally:
        dist.destroy_process_group()
        # Or they would stay the current ones: the logger would swallow what comes afterwards.
        for kind, names in before.items():
            for name in set(kind._instance_dict) - names:
                del kind._instance_dict[name]


def _harmless(cfg: Config) -> Config:
    """Copy a config so that it starts no processes and needs no GPU."""
    cfg = deepcopy(cfg)
    cfg.launcher, cfg.resume, cfg.load_from = 'none', False, None
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])
    loader = cfg.train_dataloader
    loader.num_workers, loader.persistent_workers = 0, False
    for key in ('prefetch_factor', 'timeout', 'multiprocessing_context'):
        loader.pop(key, None)
    # What follows cannot be built without a GPU. It changes neither groups nor state.
    wrapper = cfg.optim_wrapper
    if type_name(wrapper) == 'AmpOptimWrapper':
        wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
    if wrapper.get('optimizer', {}).get('backend') == 'apex':
        wrapper.optimizer.backend = 'auto'
    return cfg
