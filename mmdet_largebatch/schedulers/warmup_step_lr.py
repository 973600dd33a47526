"""Linear warmup and step decay, as a pure function of the update and as an MMEngine scheduler.

The warmup is the gradual one of Goyal et al. 2017 (arXiv 1706.02677), with the numbers of
MMEngine's ``LinearLR(start_factor=warmup_ratio, begin=0, end=warmup_iters, by_epoch=False)``.
Where MMEngine multiplies the last LR by a quotient at every step, this is computed anew from the
number of the update: nothing has to be replayed to know the LR anywhere in the training.
"""

from bisect import bisect_right
from collections.abc import Sequence
from numbers import Integral

from mmdet.registry import PARAM_SCHEDULERS
from mmengine.optim import BaseOptimWrapper
from torch.optim import Optimizer

from ..checks import check, check_base_lrs, check_factors, check_milestones, check_warmup_iters
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
        milestones (Sequence[int]): Updates from which on the LR is lower by one more ``gamma``,
            increasing.
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


@PARAM_SCHEDULERS.register_module()
class WarmupStepLR(ParamScheduler):
    """Linear warmup, then step decay, of every group's LR; everything is counted in updates.

    ``lr(update) = base_lr * warmup(update) * gamma ** (milestones passed)``, see
    :func:`warmup_step_factor`. The base LR is each group's own ``lr`` (``initial_lr`` where the
    optimizer was scheduled before).

    A checkpoint keeps the number of the update and nothing else. On resume the LR of every group
    is set from the settings of this instance, so what was changed in the config (milestones,
    gamma, warmup, base LR) takes effect although the optimizer's state brings its old LR along.

    Args:
        optimizer (BaseOptimWrapper or Optimizer): Whose groups are scheduled.
        warmup_iters (int): Length of the warmup in updates; 0 for none.
        milestones (Sequence[int]): Updates at which the LR decays, increasing, above 0; empty
            for none.
        gamma (float): Factor of one decay. Defaults to 0.1.
        warmup_ratio (float): Factor of the first update of the warmup, in (0, 1]. 0 is refused:
            it would spend a global batch on an update that moves nothing. Defaults to 0.001.
        end (int, optional): Not used: MMEngine's Runner hands one to each scheduler that it
            builds from ``param_scheduler``, and this schedule has no end. Defaults to None.

    Raises:
        SettingError: If a setting is not a number in its range, if a group's LR is not a finite
            number of at least 0, or if no group's is above 0.

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
        owner = type(self).__name__
        check_warmup_iters(owner, warmup_iters)
        check_milestones(owner, milestones, Integral, 'whole updates')
        check_factors(owner, gamma, warmup_ratio)
        groups = optimizer.param_groups
        check_base_lrs([group.get('initial_lr', group['lr']) for group in groups])

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
        """Return the number of updates done; everything else is in the config.

        Returns:
            dict: ``{'update': int}``.
        """
        return {'update': self.last_step}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go to an update, and set every group's LR (and ``initial_lr``) to this schedule's.

        To be called after the optimizer's state has been loaded, as ``Runner.resume`` does.

        Args:
            state_dict (dict): ``{'update': int}``, from :meth:`state_dict`.

        Raises:
            SettingError: If it is another scheduler's state.
        """
        check(
            set(state_dict) == {'update'},
            'param_schedulers of the checkpoint',
            sorted(state_dict),
            "['update']: another scheduler wrote it; to begin from that checkpoint's weights "
            'give it as load_from with resume=False',
        )
        self.last_step = self._global_step = state_dict['update']
        # The groups are asked for again: an optimizer makes new ones when it loads its state.
        groups = self.optimizer.param_groups
        for group, base_lr, lr in zip(groups, self.base_values, self._get_value(), strict=True):
            group['initial_lr'] = base_lr
            group['lr'] = lr
        self._last_value = [group['lr'] for group in groups]
