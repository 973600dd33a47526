"""Measure the times of a training on one process: loader, model, evaluation, saving."""

import os
import platform
from copy import deepcopy
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import is_cuda_available
from mmengine.runner import Runner
from tqdm import tqdm

from ..checkpoints import check_initial_weights
from ..utils.type_names import type_name
from .measure_hook import Measured, MeasuredUpdate, MeasureHook, Stopwatch
from .plan import Plan
from .quiet_runner import QuietRunner, restored_globals
from .update_time import Times

MICRO_BATCHES, MICRO_BATCHES_OF_AN_UPDATE = 50, 5
# Batches of an evaluation.
EVALUATED = 20
# Updates, or batches of an evaluation, before the measured ones.
WARM_UP = 2
# Hooks that save, and one that goes back to what was saved.
SAVING = ('AtomicCheckpointHook', 'CheckpointHook', 'DivergenceHook', 'PreemptionHook')
WORKER_OPTIONS = ('prefetch_factor', 'timeout', 'multiprocessing_context')


def measure(cfg: Config, plan: Plan) -> Times:
    """Train some 50 micro-batches of a config on this process, and evaluate some batches.

    The loop, the model, the data and the hooks are those of the config. The LR is so low that the
    weights stay. Nothing is saved in the work folder. A GPU is synchronised after each micro-batch.

    Args:
        cfg (Config): The config; it is not changed.
        plan (Plan): Its plan.

    Returns:
        Times: The times of one rank.

    Raises:
        SettingError: If the training would be refused, or its weights cannot be read.
    """
    check_initial_weights(cfg)
    an_update = min(plan.micro_batches, MICRO_BATCHES_OF_AN_UPDATE)
    if 'global_batch_size' not in cfg.train_cfg:
        an_update = 1
    updates = ceil(MICRO_BATCHES / an_update)
    threads = torch.get_num_threads()
    if not is_cuda_available() and 'OMP_NUM_THREADS' not in os.environ:
        # As torchrun starts several processes.
        torch.set_num_threads(1)
    try:
        with (
            TemporaryDirectory() as folder,
            restored_globals(),
            tqdm(total=(updates + WARM_UP) * an_update, unit='micro-batch', ncols=80) as bar,
        ):
            hook = MeasureHook(updates + WARM_UP, lambda: bar.update(an_update))
            runner = QuietRunner.from_cfg(_measured_config(cfg, plan, an_update, Path(folder)))
            runner.register_hook(hook)
            _train(runner)
            measured = [MeasuredUpdate.of(events) for events in hook.updates[WARM_UP:]]
            evaluation = _evaluate(runner, cfg)
            begin = perf_counter()
            runner.save_checkpoint(folder, 'measured.pth')
            saving = perf_counter() - begin
            return _times(cfg, plan, measured, evaluation, saving)
    finally:
        torch.set_num_threads(threads)


def _train(runner: Runner) -> None:
    """Train until enough is measured."""
    try:
        runner.train()
    except Measured:
        pass


def _measured_config(cfg: Config, plan: Plan, an_update: int, folder: Path) -> Config:
    """Copy a config for one process that saves nothing and loads in this process."""
    cfg = deepcopy(cfg)
    cfg.launcher, cfg.resume = 'none', False
    cfg.work_dir, cfg.experiment_name = str(folder), folder.name
    cfg.visualizer = dict(type='Visualizer', vis_backends=[])
    cfg.update({f'{split}_{part}': None for split in ('val', 'test') for part in _PARTS})
    cfg.train_dataloader = _without_workers(cfg.train_dataloader)
    # Never at the end of the training; the schedule's own length is another setting.
    cfg.train_cfg.max_epochs = plan.epochs + MICRO_BATCHES + 2 * WARM_UP
    if 'global_batch_size' in cfg.train_cfg:
        cfg.train_cfg.global_batch_size = an_update * plan.micro_batch
        cfg.train_cfg.max_updates = None
    if 'lr' in cfg.optim_wrapper.optimizer:
        cfg.optim_wrapper.optimizer.lr = 1e-12
    hooks = cfg.get('default_hooks') or {}
    kept = {name: hook for name, hook in hooks.items() if type_name(hook) not in SAVING}
    cfg.default_hooks = dict(kept, checkpoint=None)
    custom = cfg.get('custom_hooks') or []
    cfg.custom_hooks = [hook for hook in custom if type_name(hook) not in SAVING]
    return cfg


_PARTS = ('dataloader', 'cfg', 'evaluator')


def _without_workers(loader: dict) -> dict:
    loader = {key: value for key, value in loader.items() if key not in WORKER_OPTIONS}
    return loader | dict(num_workers=0, persistent_workers=False)


def _evaluate(runner: Runner, cfg: Config) -> tuple[float, int] | None:
    """Return the seconds of a validation image and the number of images; None without any."""
    if cfg.get('val_dataloader') is None:
        return None
    loader = Runner.build_dataloader(_without_workers(deepcopy(cfg.val_dataloader)))
    model, watch, images = runner.model, Stopwatch(), []
    model.eval()
    batches = iter(loader)
    with torch.no_grad():
        for _ in range(min(EVALUATED, len(loader))):
            watch.restart()
            batch = next(batches)
            watch.note('loaded')
            model.val_step(batch)
            watch.note('model')
            images.append(len(batch['data_samples']))
    seconds = np.array([seconds for _, seconds in watch.events]).reshape(-1, 2)
    begin = WARM_UP if len(images) > 2 * WARM_UP else 0
    load, inference = seconds[begin:].sum(0) / sum(images[begin:])
    workers = cfg.val_dataloader.get('num_workers', 0)
    each = max(inference, load / workers) if workers else inference + load
    return float(each), len(loader.dataset)


def _times(
    cfg: Config,
    plan: Plan,
    measured: list[MeasuredUpdate],
    evaluation: tuple[float, int] | None,
    saving: float,
) -> Times:
    """Put what was measured together."""
    model = np.concatenate([update.model for update in measured])
    load = np.concatenate([update.load for update in measured])
    first_pass = np.concatenate([update.first_pass for update in measured])
    step = float(np.mean([update.rest for update in measured]))
    workers = cfg.train_dataloader.get('num_workers', 0)
    cv = model.std(ddof=1) / model.mean()
    lines = [
        f'measured: {len(model)} micro-batches of {plan.micro_batch} images on one process, '
        f'{_device()}',
        f'a micro-batch: model {model.mean():.4g} s (CV {cv:.2g}), loading {load.mean():.4g} s',
    ]
    if first_pass.any():
        lines.append(
            f'reduce_mean: a first pass of {first_pass.mean():.4g} s a micro-batch where a rank '
            'has several'
        )
    if workers:
        lines.append('each data worker has a CPU core of its own')
    if evaluation:
        lines.append('evaluation is inference alone, without computing the metrics')
    return Times(
        source='--measure',
        micro_batches=model if workers else model + load,
        first_pass=first_pass if first_pass.any() else None,
        step=step,
        loading=float(load.mean()),
        model=float(model.mean()),
        evaluation=evaluation and evaluation[0],
        validation_images=evaluation and evaluation[1],
        checkpoint=saving,
        assumptions=tuple(lines),
    )


def _device() -> str:
    if is_cuda_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f'CPU {platform.machine()}, {threads} thread{"s" if threads > 1 else ""} a process'
