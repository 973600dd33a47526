"""Linear warmup and step decay, as a pure function of the update and as an MMEngine scheduler.

The warmup is the gradual one of Goyal et al. 2017 (arXiv 1706.02677). Its values are those of
MMEngine's ``LinearLR(start_factor=warmup_ratio, begin=0, end=warmup_iters, by_epoch=False)``.
MMEngine multiplies the last LR by a quotient at every step; here the LR is computed from the update
alone.
"""

from bisect import bisect_right
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from mmdet.registry import PARAM_SCHEDULERS
from mmengine.optim import BaseOptimWrapper
from torch.optim import Optimizer

from ..checks import check, is_number
from ..compat import ParamScheduler


def warmup_step_factor(
    update: int,
    warmup_iters: int,
    milestones: Sequence[int],
    gamma: float,
    warmup_ratio: float,
) -> float:
    """Return the factor of the base LR at one update.

    Args:
        update (int): The update, counted from 0.
        warmup_iters (int): Length of the warmup in updates; the factor rises linearly from
            ``warmup_ratio`` at update 0 to 1 at update ``warmup_iters - 1``. With 0 (no warmup)
            or 1 it is 1 from the start.
        milestones (Sequence[int]): Updates at which the LR decays, increasing.
        gamma (float): Factor of one decay.
        warmup_ratio (float): Factor of the first update of the warmup.

    Returns:
        float: The factor.

    Example:
        >>> warmup_step_factor(0, 5, [6, 8], 0.5, 0.2)
        0.2
        >>> warmup_step_factor(8, 5, [6, 8], 0.5, 0.2)
        0.25
    """
    if update < warmup_iters - 1:
        warmup = warmup_ratio + (1 - warmup_ratio) * update / (warmup_iters - 1)
    else:
        warmup = 1.0
    return warmup * gamma ** bisect_right(milestones, update)


def check_schedule(
    owner: str,
    warmup_iters: Any,
    milestones: Any,
    gamma: Any,
    warmup_ratio: Any,
    kind: type = Integral,
    unit: str = 'whole updates',
) -> None:
    """Refuse settings of a schedule that are out of their range.

    Args:
        owner (str): Class of the settings, for the message.
        warmup_iters (Any): As for :class:`WarmupStepLR`, as are the settings that follow.
        milestones (Any): Updates or epochs.
        gamma (Any): A factor.
        warmup_ratio (Any): A factor.
        kind (type): Type of a milestone. Defaults to Integral.
        unit (str): Unit of the milestones. Defaults to 'whole updates'.
    """
    ok = is_number(warmup_iters, Integral) and warmup_iters >= 0
    check(ok, f'{owner}.warmup_iters', warmup_iters, 'a whole number of updates, 0 for none')
    ok = (
        isinstance(milestones, (list, tuple))
        and all(is_number(milestone, kind) and milestone > 0 for milestone in milestones)
        and list(milestones) == sorted(set(milestones))
    )
    wanted = f'a list of increasing {unit}, each above 0'
    check(ok, f'{owner}.milestones', milestones, wanted)
    ok = is_number(gamma) and gamma > 0
    check(ok, f'{owner}.gamma', gamma, 'a finite number above 0, such as 0.1')
    ok = is_number(warmup_ratio) and 0 < warmup_ratio <= 1
    wanted = 'a number above 0 (at 0 the first update learns nothing) and at most 1'
    check(ok, f'{owner}.warmup_ratio', warmup_ratio, wanted)


@PARAM_SCHEDULERS.register_module()
class WarmupStepLR(ParamScheduler):
    """Linear warmup, then step decay of the LR of every parameter group, counted in updates.

    ``lr(update) = base_lr * warmup(update) * gamma ** (milestones passed)``, see
    :func:`warmup_step_factor`. ``base_lr`` is the group's ``lr`` (``initial_lr`` if the optimizer
    was scheduled before).

    A checkpoint keeps the update and nothing else. Milestones, gamma, warmup and base LR that were
    changed in the config therefore take effect on resume.

    Args:
        optimizer (BaseOptimWrapper or Optimizer): The optimizer.
        warmup_iters (int): Length of the warmup in updates; 0 for none.
        milestones (Sequence[int]): Updates at which the LR decays, increasing, above 0; empty
            for none.
        gamma (float): Factor of one decay. Defaults to 0.1.
        warmup_ratio (float): Factor of the first update of the warmup, in (0, 1]. 0 is refused
            because the first update would learn nothing. Defaults to 0.001.
        end (int, optional): Not used. MMEngine's Runner passes it to every scheduler of
            ``param_scheduler``. Defaults to None.

    Raises:
        SettingError: If a setting is not a number in its range, if the LR of a group is negative or
            not finite, or if it is 0 in every group.

    Examples:
        >>> import torch
        >>> from mmdet_largebatch import WarmupStepLR
        >>> optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
        >>> scheduler = WarmupStepLR(optimizer, warmup_iters=3, milestones=[4], warmup_ratio=0.5)
        >>> for update in range(5):
        ...     print(update, optimizer.param_groups[0]['lr'])
        ...     optimizer.step()
        ...     scheduler.step()
        0 0.5
        1 0.75
        2 1.0
        3 1.0
        4 0.1
    """

    def __init__(
        self,
        optimizer: BaseOptimWrapper | Optimizer,
        warmup_iters: int,
        milestones: Sequence[int],
        gamma: float = 0.1,
        warmup_ratio: float = 0.001,
        end: int | None = None,
    ) -> None:
        check_schedule(type(self).__name__, warmup_iters, milestones, gamma, warmup_ratio)
        lrs = [group.get('initial_lr', group['lr']) for group in optimizer.param_groups]
        invalid = [lr for lr in lrs if not (is_number(lr) and lr >= 0)]
        # lr_mult=0 may hold some groups, not all.
        invalid = invalid or ([] if any(lrs) else lrs)
        lr = invalid[0] if invalid else None
        check(not invalid, 'optim_wrapper.optimizer.lr', lr, 'a finite number above 0')

        self.warmup_iters = warmup_iters
        self.milestones = list(milestones)
        self.gamma = gamma
        self.warmup_ratio = warmup_ratio
        super().__init__(optimizer, param_name='lr', by_epoch=False)

    def _get_value(self) -> list[float]:
        factor = warmup_step_factor(
            self.last_step, self.warmup_iters, self.milestones, self.gamma, self.warmup_ratio
        )
        return [base_lr * factor for base_lr in self.base_values]

    def state_dict(self) -> dict:
        """Return the updates that are done; everything else is in the config.

        Returns:
            dict: ``{'update': int}``.
        """
        return {'update': self.last_step}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go to an update: set ``lr`` and ``initial_lr`` of every parameter group.

        ``Runner.resume`` calls this after it has loaded the optimizer's state.

        Args:
            state_dict (dict): ``{'update': int}``, from :meth:`state_dict`.

        Raises:
            SettingError: If the state is another scheduler's.
        """
        check(
            set(state_dict) == {'update'},
            'param_schedulers of the checkpoint',
            sorted(state_dict),
            "['update']: another scheduler wrote it; to begin from that checkpoint's weights "
            'give it as load_from with resume=False',
        )
        self.last_step = self._global_step = state_dict['update']
        # An optimizer makes new groups when it loads its state.
        groups = self.optimizer.param_groups
        for group, base_lr, lr in zip(groups, self.base_values, self._get_value(), strict=True):
            group['initial_lr'] = base_lr
            group['lr'] = lr
        self._last_value = [group['lr'] for group in groups]
