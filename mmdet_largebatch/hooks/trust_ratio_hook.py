"""Write statistics of the trust ratios of LAMB and LARS."""

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
from ..utils.runner import optimizer_name, plain_model

QUANTITIES = ('trust_ratio', 'weight_norm', 'update_norm')
STATISTICS: dict[str, Callable[..., Any]] = dict(min=np.min, median=np.median, max=np.max)
Number = Tensor | float


@HOOKS.register_module()
class TrustRatioHook(Hook):
    """Write trust ratio, ||p|| and ||update|| of each component to every vis backend.

    The values are the minimum, median and maximum over the tensors of a component (``backbone``,
    ``bbox_head``, ...), for example ``backbone/trust_ratio_median``. ``weight_norm`` is the norm of
    a tensor before the update. ``update_norm`` is the norm of the update before it is multiplied by
    trust ratio and LR. Tensors without a trust ratio are left out: those without weight decay under
    LAMB, the excluded ones under LARS.

    The values of an update are copied from the device at once. If loss scaling skips the update,
    the next one is written.

    Args:
        interval (int): Interval in updates, at least 1. Defaults to 50.

    Raises:
        SettingError: If the interval is not a positive int.

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
        """Find the optimizer and the names of its parameters."""
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if not isinstance(optimizer, LayerwiseOptimizer):
            print_log(
                'TrustRatioHook has nothing to write: '
                f'{optimizer_name(runner.optim_wrapper)} has no trust ratio, LAMB and LARS have.',
                logger='current',
            )
        elif is_main_process():
            self._optimizer = optimizer
            named = plain_model(runner.model).named_parameters()
            self._names = {p: name for name, p in named}

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Observe the optimizer's step at the interval."""
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
        """Write the statistics of an observed step."""
        if self._optimizer is None or not self._due:
            return
        self._optimizer.observer = None
        if self._seen:
            runner.visualizer.add_scalars(self._statistics(), step=runner.iter + 1)
            self._seen, self._due = [], False

    def after_rollback(self, runner: Runner) -> None:
        """Drop the observations of an update that was rolled back."""
        if self._optimizer is not None:
            self._optimizer.observer = None
        self._seen, self._due = [], False

    def after_train(self, runner: Runner) -> None:
        """Release the optimizer and the model."""
        self.after_rollback(runner)
        self._optimizer, self._names = None, {}

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
    """Return 0-d tensors as float64, copied from their device at once."""
    if all(isinstance(number, float) for number in numbers):
        return np.array(numbers)
    device = next(number.device for number in numbers if isinstance(number, Tensor))
    stacked = torch.stack([torch.as_tensor(number, device=device) for number in numbers])
    return stacked.cpu().double().numpy()
