"""A runner that leaves no log and no trace in MMEngine's globals."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from ..compat import instances

# A Runner leaves its own instance of each of these behind as MMEngine's current one.
GLOBALS = (DefaultScope, MMLogger, MessageHub, Visualizer)


class QuietRunner(Runner):
    """Runner that logs errors alone and writes neither its log nor its config."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Return a logger of errors alone, without a file."""
        return MMLogger.get_instance(self.experiment_name, log_level='ERROR')

    def dump_config(self) -> None:
        """Write nothing."""

    def _log_env(self, env_cfg: dict) -> None:
        """Log nothing. MMEngine would start programs to ask for their versions."""


@contextmanager
def restored_globals() -> Iterator[None]:
    """Remove the instances that a runner leaves behind.

    Left behind, the logger of errors would become the current one.
    """
    before = {kind: set(instances(kind)) for kind in GLOBALS}
    try:
        yield
    finally:
        for kind, names in before.items():
            for name in set(instances(kind)) - names:
                del instances(kind)[name]
