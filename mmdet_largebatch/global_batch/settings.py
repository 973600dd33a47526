"""Check that a config, a model and a checkpoint can be trained with a global batch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmengine.hooks import Hook
from mmengine.model import MMSeparateDistributedDataParallel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..checks import check, check_flag, check_positive_integer, invalid
from ..compat import accumulative_counts
from ..errors import SettingError
from ..utils.runner import plain_model
from ..utils.type_names import type_name
from .rank_dependence import uneven_message
from .sampler import GlobalBatchSampler

if TYPE_CHECKING:
    from .loop import GlobalBatchTrainLoop

# Arguments that train_cfg may have besides this package's own.
STOCK_SETTINGS = ('val_begin', 'val_interval', 'dynamic_intervals')
# Key of the message hub.
BATCH = 'global_batch_size'


def check_train_cfg(
    max_epochs: Any,
    global_batch_size: Any,
    max_updates: Any,
    exact_sum: Any,
    others: dict[str, Any],
) -> None:
    """Refuse settings that cannot be used, and those that MMEngine would fail on later.

    Args:
        max_epochs (Any): Epochs to train.
        global_batch_size (Any): Images of an update.
        max_updates (Any): Updates after which the training ends, None for all.
        exact_sum (Any): Whether to add gradients as integers.
        others (dict[str, Any]): The other arguments of ``train_cfg``.

    Raises:
        SettingError: If a setting is invalid or unknown.
    """
    check_positive_integer('train_cfg.global_batch_size', global_batch_size)
    check_flag('train_cfg.exact_sum', exact_sum)
    if max_updates is not None:
        check_positive_integer('train_cfg.max_updates', max_updates)
    unknown = sorted(set(others) - set(STOCK_SETTINGS))
    if unknown:
        own = ('max_epochs', 'global_batch_size', 'max_updates', 'exact_sum')
        known = ', '.join((*own, *STOCK_SETTINGS))
        wanted = f'left out: GlobalBatchTrainLoop knows {known}'
        raise invalid(f'train_cfg.{unknown[0]}', others[unknown[0]], wanted)
    if isinstance(max_epochs, float) and max_epochs.is_integer():
        max_epochs = int(max_epochs)
    check_positive_integer('train_cfg.max_epochs', max_epochs)
    check_positive_integer('train_cfg.val_interval', others.get('val_interval', 1))
    intervals = others.get('dynamic_intervals')
    whole = intervals is None or all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and all(isinstance(n, int) for n in pair)
        and pair[1] >= 1
        for pair in intervals
    )
    wanted = 'a list of pairs of an epoch and an interval >= 1, such as [(10, 1)]'
    check(whole, 'train_cfg.dynamic_intervals', intervals, wanted)


def check_runner(runner: Any) -> None:
    """Refuse another runner than MMEngine's ``Runner``.

    Args:
        runner (Runner): The runner.

    Raises:
        SettingError: If it is a ``FlexibleRunner``, or its config asks for one.
    """
    kind = type_name(runner.cfg.get('runner_type')) or type(runner).__name__
    ok = isinstance(runner, Runner) and kind != 'FlexibleRunner'
    wanted = 'Runner or a class derived from it under GlobalBatchTrainLoop, which uses no strategy'
    check(ok, 'runner_type', kind, wanted)


def check_optim_wrapper(wrapper: Any, global_batch_size: int) -> None:
    """Refuse a wrapper that cannot make updates of the global batch.

    Args:
        wrapper (Any): The optimizer wrapper of the run.
        global_batch_size (int): Images of an update.

    Raises:
        SettingError: If it is of another kind, holds several optimizers, or accumulates itself.
    """
    if isinstance(wrapper, OptimWrapperDict):
        wanted = 'a single optimizer under GlobalBatchTrainLoop'
        raise invalid('optim_wrapper', list(wrapper.keys()), wanted)
    wanted = 'OptimWrapper or a class derived from it under GlobalBatchTrainLoop'
    kind = type(wrapper).__name__
    check(isinstance(wrapper, OptimWrapper), 'optim_wrapper.type', kind, wanted)
    counts = accumulative_counts(wrapper)
    wanted = f'1: train_cfg.global_batch_size={global_batch_size} says what is accumulated'
    check(counts == 1, 'optim_wrapper.accumulative_counts', counts, wanted)


def check_model(
    model: nn.Module, sampler: GlobalBatchSampler, exact_sum: bool, hooks: Sequence[Hook]
) -> None:
    """Refuse a model that the ranks cannot share out, or a wrapper that cannot accumulate.

    Args:
        model (nn.Module): The model, in the mode that it trains in, wrapped or not.
        sampler (GlobalBatchSampler): The sampler of the run.
        exact_sum (bool): Whether to add gradients as integers.
        hooks (Sequence[Hook]): The hooks of the run.

    Raises:
        SettingError: If the model communicates and the shares differ in size, if its wrapper is not
            DDP, or if DDP's graph is static and not every backward pass synchronises.
    """
    # MMEngine's class for several optimizers derives from DDP and has none of its attributes.
    is_ddp = isinstance(model, DistributedDataParallel) and not isinstance(
        model, MMSeparateDistributedDataParallel
    )
    ok = plain_model(model) is model or is_ddp
    wanted = (
        'MMDistributedDataParallel or a class derived from it under GlobalBatchTrainLoop: one DDP '
        'of the model, with all parameters on each rank'
    )
    check(ok, 'model_wrapper_cfg.type', type(model).__name__, wanted)
    why = _unsynchronised(sampler, exact_sum, hooks)
    if is_ddp and model.static_graph and why:
        wanted = f'False with {why}: not every backward pass synchronises gradients'
        raise invalid('model_wrapper_cfg.static_graph', True, wanted)
    message = uneven_message(model, sampler.ranks, sampler.micro_batches)
    if message:
        raise SettingError(message)


def _unsynchronised(
    sampler: GlobalBatchSampler, exact_sum: bool, hooks: Sequence[Hook]
) -> str | None:
    """Name what leaves gradients of a micro-batch local to its rank; None if nothing does."""
    if exact_sum:
        return 'train_cfg.exact_sum=True'
    if sampler.micro_batches > sampler.ranks:
        return 'several micro-batches on a rank'
    listeners = [hook for hook in hooks if hasattr(hook, 'wants_micro_batches')]
    return type(listeners[0]).__name__ if listeners else None


def check_updates_per_epoch(loop: 'GlobalBatchTrainLoop') -> None:
    """Refuse a checkpoint of another number of updates an epoch, and keep the number in the next.

    Args:
        loop (GlobalBatchTrainLoop): The loop of the run, once it has resumed.

    Raises:
        SettingError: If the number differs from the checkpoint's.
    """
    hub, key, updates = loop.runner.message_hub, 'updates_per_epoch', loop.updates_per_epoch
    before, batch_before = hub.get_info(key) or _iterations_per_epoch(loop), hub.get_info(BATCH)
    if loop.iter > 0 and before != updates:
        name, value, what = 'train_cfg.global_batch_size', loop.global_batch_size, 'one'
        if batch_before == value:
            images = len(loop.dataloader.dataset)
            name, value, what = 'len(train_dataloader.dataset)', images, 'a number of images'
        other = ' (or is it another data set?)' if batch_before is None else ''
        wanted = (
            f'{what} that makes {before} updates an epoch, as in the run of the checkpoint, not '
            f'{updates}{other}; to begin from its weights, give it as load_from without --resume'
        )
        raise invalid(name, value, wanted)
    hub.update_info(key, updates)
    hub.update_info(BATCH, loop.global_batch_size)


def _iterations_per_epoch(loop: 'GlobalBatchTrainLoop') -> int:
    """Return the iterations of an epoch of MMEngine's own loop, whose checkpoint is resumed."""
    hub = loop.runner.message_hub
    epochs, iterations = hub.get_info('max_epochs'), hub.get_info('max_iters')
    if epochs and iterations:
        return iterations // epochs
    # Without RuntimeInfoHook the checkpoint has no more than its place.
    least, most = (epoch * loop.updates_per_epoch for epoch in (loop.epoch, loop.epoch + 1))
    return loop.updates_per_epoch if least <= loop.iter <= most else loop.iter // max(loop.epoch, 1)
