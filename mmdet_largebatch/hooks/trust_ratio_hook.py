"""Statistics of the trust ratios that LAMB and LARS scale their steps by."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from mmdet.registry import HOOKS
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor

from ..checks import check, is_number
from ..optimizers import component_of
from ..optimizers.base import LayerwiseOptimizer

QUANTITIES = ('trust_ratio', 'weight_norm', 'update_norm')
STATISTICS: dict[str, Callable[..., Any]] = dict(min=np.min, median=np.median, max=np.max)
Number = Tensor | float


@HOOKS.register_module()
class TrustRatioHook(Hook):
    """Writes trust ratios, ||p|| and ||update|| per component to every vis backend in use.

    Of the tensors of a component (``backbone``, ``bbox_head``, ...) that are scaled by a trust
    ratio, the minimum, median and maximum are written, as ``backbone/trust_ratio_median`` and so
    on. ``update_norm`` is the norm of what the ratio and the LR multiply, ``weight_norm`` that of
    the tensor before the update. Tensors without a ratio (without weight decay under LAMB, excluded
    under LARS) do not count.

    At an interval, the numbers come from the device in one copy. At other updates nothing is done.
    An update that loss scaling skips is made up for by the next one.

    Args:
        interval (int): Updates from one record to the next, >= 1. Defaults to 50.

    Raises:
        SettingError: If the interval is no positive int.

    Examples:
        >>> from mmdet.registry import HOOKS
        >>> default_hooks = dict(trust_ratio=dict(type='TrustRatioHook', interval=50))
        >>> HOOKS.build(default_hooks['trust_ratio']).interval
        50
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 50) -> None:
        ok = is_number(interval, Integral) and interval >= 1
        check(ok, f'{type(self).__name__}.interval', interval, 'a whole number of updates >= 1')
        self.interval = interval
        self._optimizer: LayerwiseOptimizer | None = None
        self._names: dict[Tensor, str] = {}
        self._seen: list[tuple[Tensor, Number, Number, Number]] = []
        self._due = False

    def before_train(self, runner: Runner) -> None:
        """Find the optimizer and the parameters' names.

        Args:
            runner (Runner): The runner.
        """
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if not isinstance(optimizer, LayerwiseOptimizer):
            print_log(
                f'TrustRatioHook has nothing to write: {type(optimizer).__name__} has no trust '
                'ratio, LAMB and LARS have.',
                logger='current',
            )
        elif is_main_process():
            self._optimizer = optimizer
            model = getattr(runner.model, 'module', runner.model)
            self._names = {p: name for name, p in model.named_parameters()}

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Listen to the step of an update that is due.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Number of the update in its epoch.
            data_batch (dict, optional): Not used.
        """
        self._due = self._due or self.every_n_train_iters(runner, self.interval)
        if self._optimizer is not None and self._due:
            self._optimizer.observer = self._observe

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Write what was heard.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Number of the update in its epoch.
            data_batch (dict, optional): Not used.
            outputs (dict, optional): Not used.
        """
        if self._optimizer is None or not self._due:
            return
        self._optimizer.observer = None
        if self._seen:
            runner.visualizer.add_scalars(self._statistics(), step=runner.iter + 1)
            self._seen, self._due = [], False

    def after_rollback(self, runner: Runner) -> None:
        """Stop listening to the update that was given up.

        Args:
            runner (Runner): The runner.
        """
        if self._optimizer is not None:
            self._optimizer.observer = None
        self._seen, self._due = [], False

    def after_train(self, runner: Runner) -> None:
        """Let go of the optimizer.

        Args:
            runner (Runner): The runner.
        """
        if self._optimizer is not None:
            self._optimizer.observer = None
        self._optimizer, self._names, self._seen = None, {}, []

    def _observe(self, p: Tensor, ratio: Number, p_norm: Number, update_norm: Number) -> None:
        self._seen.append((p, ratio, p_norm, update_norm))

    def _statistics(self) -> dict[str, float]:
        components = np.array([component_of(self._names[p]) for p, *_ in self._seen])
        numbers = _on_host([number for _, *numbers in self._seen for number in numbers])
        table = numbers.reshape(-1, len(QUANTITIES))
        return {
            f'{component}/{quantity}_{name}': float(of(table[components == component, column]))
            for component in dict.fromkeys(components)
            for column, quantity in enumerate(QUANTITIES)
            for name, of in STATISTICS.items()
        }


def _on_host(numbers: list[Number]) -> np.ndarray:
    """Numbers as float64, those of a device in one copy."""
    if all(isinstance(number, float) for number in numbers):
        return np.array(numbers)
    device = next(number.device for number in numbers if isinstance(number, Tensor))
    stacked = torch.stack([torch.as_tensor(number, device=device) for number in numbers])
    return stacked.cpu().double().numpy()
