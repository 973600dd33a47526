"""Log the ETA of a training that is cut short."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner


class CutEtaHook(Hook):
    """Scale the logged ETA to the end of a training that ends before its schedule does.

    MMEngine's ``IterTimerHook`` counts to ``max_iters``, the end of the schedule.
    :class:`GlobalBatchTrainLoop` adds this hook with ``max_updates``.

    Args:
        end (int): Updates after which the training ends.
    """

    # Registered last of this priority: after IterTimerHook, before LoggerHook (BELOW_NORMAL).
    priority = 'NORMAL'

    def __init__(self, end: int) -> None:
        self.end = end

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Scale the ETA of this update."""
        seconds = runner.message_hub.runtime_info.get('eta')
        left = runner.max_iters - runner.iter - 1
        if seconds is not None and left > 0:
            ends_in = max(self.end - runner.iter - 1, 0)
            runner.message_hub.update_info('eta', seconds * ends_in / left)
