"""Log and record how a run spreads its global batch over the ranks."""

from typing import TYPE_CHECKING

from mmengine.model import BaseModel, is_model_wrapper

from ..optimizers import double_clip_message
from ..utils.record import keep_record, note
from .exact_sum import exact_sum_line
from .own_generators import own_generator_message
from .rank_dependence import rank_dependent_modules
from .remembering import remembering_message

if TYPE_CHECKING:
    from .loop import GlobalBatchTrainLoop


def log_layout(loop: 'GlobalBatchTrainLoop') -> None:
    """Log the ranks, micro-batches and updates of a run, and warn of what depends on the ranks."""
    sampler, logger, model = loop.sampler, loop.runner.logger, loop.runner.model
    least, rest = divmod(sampler.micro_batches, sampler.ranks)
    each = f'{least} or {least + 1}' if rest else f'{least}'
    logger.info(
        f'{sampler.ranks} rank{"s" if sampler.ranks > 1 else ""}, {each} '
        f'micro-batch{"es" if each != "1" else ""} each of {sampler.batch_size} images, '
        f'global batch {loop.global_batch_size}, {loop.updates_per_epoch} updates an epoch'
    )
    logger.info(exact_sum_line(loop.exact_sum))
    if loop.end < loop.max_iters:
        logger.info(f'Cut short: {loop.end} of {loop.max_iters} updates (train_cfg.max_updates)')
    if is_model_wrapper(model) and type(model.module).train_step is not BaseModel.train_step:
        logger.warning(
            f'{type(model).__name__} does not call the train_step of '
            f'{type(model.module).__name__}, on one rank it is called.'
        )
    for what, names in rank_dependent_modules(model).items():
        logger.warning(
            f'This training depends on the number of ranks: {what}, in {", ".join(names)}.'
        )
    if message := double_clip_message(loop.runner.optim_wrapper):
        logger.warning(message)


def look_at_pipeline(loop: 'GlobalBatchTrainLoop') -> None:
    """Find what the pipeline of an epoch draws from, and warn once of what no seed reaches."""
    dataset = loop.dataloader.dataset
    dataset.__getitems__.look()
    for message in (remembering_message(dataset), own_generator_message(dataset)):
        if message and message not in loop.warned:
            loop.warned.add(message)
            loop.runner.logger.warning(message)


def record_layout(loop: 'GlobalBatchTrainLoop') -> None:
    """Add the layout and the length of a run to ``largebatch.json``."""
    keep_record(loop.runner)
    note(
        loop.runner,
        global_batch=loop.global_batch_size,
        micro_batch=loop.sampler.batch_size,
        micro_batches=loop.sampler.micro_batches,
        updates_per_epoch=loop.updates_per_epoch,
        epochs=loop.max_epochs,
        updates=loop.max_iters,
        max_updates=loop.end if loop.end < loop.max_iters else None,
        exact_sum=loop.exact_sum,
    )
