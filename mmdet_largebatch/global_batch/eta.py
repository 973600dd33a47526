"""The ETA of a training that is cut short."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner


class CutEta(Hook):
    """Let the logged ETA count to where the training is cut, not to the end of its schedule.

    MMEngine's ``IterTimerHook`` counts to ``max_iters``, which is the schedule's.

    Args:
        end (int): Updates after which the training ends.
    """

    # Registered last of that priority: after IterTimerHook, before LoggerHook (BELOW_NORMAL).
    priority = 'NORMAL'

    def __init__(self, end: int) -> None:
        self.end = end

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Scale the ETA that was just computed.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Not used.
            data_batch (Any): Not used.
            outputs (dict, optional): Not used.
        """
        seconds = runner.message_hub.runtime_info.get('eta')
        left = runner.max_iters - runner.iter - 1
        if seconds is not None and left > 0:
            ends_in = max(self.end - runner.iter - 1, 0)
            runner.message_hub.update_info('eta', seconds * ends_in / left)
