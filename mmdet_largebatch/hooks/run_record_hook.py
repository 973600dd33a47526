"""Record the settings that a run resolved, and its end."""

import mmcv
import mmdet
import mmengine
import torch
from mmdet.registry import HOOKS
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..compat import accumulative_counts
from ..utils.record import note, write_end, write_record
from ..utils.runner import optimizer_name
from ..version import __version__

STACK = (torch, mmengine, mmcv, mmdet)


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Write ``largebatch.json``, see :mod:`mmdet_largebatch.utils.record`.

    :class:`GlobalBatchTrainLoop` and ``tools/train.py`` add it to a run that lacks it.

    Examples:
        >>> from mmdet.registry import HOOKS
        >>> custom_hooks = [dict(type='RunRecordHook')]
        >>> HOOKS.build(custom_hooks[0]).priority
        'LOWEST'
    """

    priority = 'LOWEST'

    def before_train(self, runner: Runner) -> None:
        """Write the settings that the run resolved."""
        note(
            runner,
            version=__version__,
            stack={package.__name__: str(package.__version__) for package in STACK},
            ranks=runner.world_size,
            seed=runner.seed,
            optimizer=optimizer_name(runner.optim_wrapper),
            begins_at=_updates(runner),
        )
        write_record(runner, ended=None)

    def after_train(self, runner: Runner) -> None:
        """Write how the training ended."""
        loop = runner.train_loop
        how = 'done'
        if getattr(loop, 'stop_training', False) and loop.epoch < loop.max_epochs:
            how = 'stopped early'
        elif loop.iter < loop.max_iters:
            how = 'cut'
        write_end(runner, how, _updates(runner), loop.epoch)


def _updates(runner: Runner) -> int:
    return -(-runner.iter // accumulative_counts(runner.optim_wrapper))
