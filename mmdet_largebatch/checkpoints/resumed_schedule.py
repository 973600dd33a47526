"""Resume a schedule with the state of a checkpoint and the settings of the config."""

from math import isfinite
from typing import Any
from warnings import catch_warnings, filterwarnings

from mmengine.optim import ReduceOnPlateauParamScheduler
from mmengine.runner import Runner

from ..schedulers import WarmupStepLR
from ..utils.runner import has_one_optimizer
from .optimizer_settings import OPTIMIZER, groups_of

# Schedulers that multiply the LR: another base LR only changes a factor.
MULTIPLYING = ('LinearLR', 'ConstantLR', 'MultiStepLR', 'StepLR', 'ExponentialLR')
# Schedulers that read their settings at every step.
SETTABLE = (*MULTIPLYING, 'CosineAnnealingLR', 'PolyLR')


class ResumedSchedule:
    """Put the settings of a run's schedule into the checkpoint that it resumes from.

    :class:`WarmupStepLR` keeps its settings by itself; this is for MMEngine's schedulers.

    Args:
        runner (Runner): The runner before it loads anything, with its optimizer built.
    """

    def __init__(self, runner: Runner) -> None:
        wrapper, schedulers = runner.optim_wrapper, runner.param_schedulers
        # Several optimizers have a dict of lists.
        self.schedulers = schedulers if isinstance(schedulers, list) else []
        self._settings = [dict(vars(scheduler)) for scheduler in self.schedulers]
        groups = wrapper.param_groups if has_one_optimizer(wrapper) else []
        self._first_groups = [dict(group) for group in groups]
        self._is_behind = False

    def prepare(self, checkpoint: dict[str, Any], configured: list[dict[str, Any]]) -> list[str]:
        """Put the config's schedule and LR into a checkpoint that is being loaded.

        Args:
            checkpoint (dict[str, Any]): The checkpoint, changed in place.
            configured (list[dict[str, Any]]): Options of the parameter groups by the config.

        Returns:
            list[str]: A line for each difference.
        """
        lines: list[str] = []
        states = checkpoint.get('param_schedulers')
        if not self.schedulers or isinstance(self.schedulers[0], WarmupStepLR):
            return self._learning_rate(checkpoint, [], configured)
        if not states:
            if any(isinstance(s, ReduceOnPlateauParamScheduler) for s in self.schedulers):
                return ['no param_schedulers in the checkpoint: the schedule begins anew']
            self._is_behind = True
            update = checkpoint['meta']['iter']
            return [
                f'no param_schedulers in the checkpoint: the schedule is set to update {update}'
            ]
        for scheduler, own, state in zip(self.schedulers, self._settings, states, strict=True):
            name = type(scheduler).__name__
            changed = [key for key in own if _is_setting(key) and own[key] != state.get(key)]
            if changed and name in SETTABLE and 'by_epoch' not in changed:
                state.update({key: own[key] for key in changed})
                lines.append(f'param_scheduler {name}, as the config says: {", ".join(changed)}')
            elif changed:
                lines.append(
                    f"param_scheduler {name}: the checkpoint's {', '.join(changed)} stay, not the "
                    "config's"
                )
        return lines + self._learning_rate(checkpoint, states, configured)

    def _learning_rate(
        self, checkpoint: dict[str, Any], states: list[dict], configured: list[dict[str, Any]]
    ) -> list[str]:
        """Put the config's LR into the checkpoint, if it was changed and the schedule scales it."""
        state = checkpoint.get('optimizer')
        if not state:
            return []
        groups, own = groups_of(state), [group['lr'] for group in configured]
        recorded = checkpoint['meta'].get(OPTIMIZER, {}).get('groups') or groups
        saved = [group.get('initial_lr', group['lr']) for group in recorded]
        if saved == own or len(saved) != len(own):
            return []
        change = f'lr {as_text(saved[0])} -> {as_text(own[0])}'
        if self.schedulers and isinstance(self.schedulers[0], WarmupStepLR):
            return [f'optim_wrapper, as the config says: {change}']
        names = [type(scheduler).__name__ for scheduler in self.schedulers]
        others = [name for name in names if name not in MULTIPLYING]
        if others or not all(saved) or not all(map(isfinite, saved)):
            return [f'optim_wrapper: {change} is not taken, {others or "the LR of 0"} stays']
        factors = [new / old for new, old in zip(own, saved, strict=True)]
        for group, factor in zip(groups, factors, strict=True):
            for key in {'lr', 'initial_lr'} & set(group):
                group[key] *= factor
        for scheduler in states:
            for key in ('base_values', '_last_value'):
                scheduler[key] = [x * f for x, f in zip(scheduler[key], factors, strict=True)]
        return [f'optim_wrapper, as the config says: {change}']

    def catch_up(self, runner: Runner) -> None:
        """Step a schedule that the checkpoint lacks to the run's update."""
        if not self._is_behind:
            return
        self._is_behind = False
        groups = runner.optim_wrapper.param_groups
        for scheduler in self.schedulers:
            name = scheduler.param_name
            for group, first in zip(groups, self._first_groups, strict=True):
                group.update({key: first[key] for key in (name, f'initial_{name}') if key in first})
        length = max(1, runner.max_iters // runner.max_epochs)
        with catch_warnings():
            # The optimizer has not stepped in this process yet.
            filterwarnings('ignore', 'Detected call of `scheduler.step')
            for update in range(1, runner.iter + 1):
                epoch_ends = update % length == 0 and update // length <= runner.epoch
                for by_epoch in (False, True) if epoch_ends else (False,):
                    for scheduler in self.schedulers:
                        if scheduler.by_epoch is by_epoch:
                            scheduler.step()


def _is_setting(key: str) -> bool:
    """Return False for the fields that a scheduler changes as it steps."""
    return not key.startswith('_') and key not in (
        *('optimizer', 'last_step', 'base_values', 'verbose', 'best'),
        *('num_bad_epochs', 'cooldown_counter', 'last_epoch'),
    )


def as_text(value: Any) -> str:
    """Return a setting as text for the log."""
    return f'{value:g}' if isinstance(value, float) else str(value)
