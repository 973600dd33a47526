"""Resume a schedule with the settings of the config."""

from typing import Any
from warnings import catch_warnings, filterwarnings

from mmengine.optim import ReduceOnPlateauParamScheduler
from mmengine.runner import Runner

from ..schedulers import WarmupStepLR
from ..utils.runner import has_one_optimizer
from .optimizer_settings import OPTIMIZER, groups_of


class ResumedSchedule:
    """Give a resumed run the schedule of its config.

    MMEngine's schedulers compute a value from the last one. A changed setting or LR therefore
    cannot be put into their saved state: the schedule is stepped anew from update 0. Schedulers
    that follow a metric (``ReduceOnPlateau``) cannot be, and keep the checkpoint's state.
    :class:`WarmupStepLR` follows its config by itself.

    Args:
        runner (Runner): The runner before it loads anything, with its optimizer built.
    """

    def __init__(self, runner: Runner) -> None:
        wrapper, schedulers = runner.optim_wrapper, runner.param_schedulers
        # Several optimizers have a dict of lists.
        self.schedulers = schedulers if isinstance(schedulers, list) else []
        self._first_states = [scheduler.state_dict() for scheduler in self.schedulers]
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
        change = _changed_lr(checkpoint, configured)
        taken = [f'optim_wrapper, as the config says: {change}'] if change else []
        if not self.schedulers:
            if change:
                _scale(checkpoint, configured)
            return taken
        states, update = checkpoint.get('param_schedulers'), checkpoint['meta']['iter']
        lacks = 'no param_schedulers in the checkpoint'
        if states and not self._is_of_these_kinds(states):
            lacks = 'param_scheduler of another kind or number in the checkpoint'
            states = checkpoint['param_schedulers'] = None
        if all(isinstance(scheduler, WarmupStepLR) for scheduler in self.schedulers):
            if states or 'param_schedulers' not in checkpoint:
                return taken
            checkpoint['param_schedulers'] = [{'update': update} for _ in self.schedulers]
            return [f'{lacks}: the schedule is set to update {update}', *taken]
        metric = any(isinstance(s, ReduceOnPlateauParamScheduler) for s in self.schedulers)
        if not states:
            if 'param_schedulers' in checkpoint:
                checkpoint['param_schedulers'] = [dict(state) for state in self._first_states]
            if metric:
                return [f'{lacks}: the schedule begins anew']
            self._is_behind = True
            return [f'{lacks}: the schedule is set to update {update}', *taken]
        lines = []
        for scheduler, own, state in zip(self.schedulers, self._first_states, states, strict=True):
            changed = [key for key in own if _is_setting(key) and own[key] != state.get(key)]
            name, keys = type(scheduler).__name__, ', '.join(changed)
            if changed and metric:
                lines.append(
                    f"param_scheduler {name}: the checkpoint's {keys} stay, not the config's"
                )
            elif changed:
                lines.append(f'param_scheduler {name}, as the config says: {keys}')
        if metric:
            kept = f'optim_wrapper: {change} is not taken: ReduceOnPlateau decides by past metrics'
            return [*lines, kept] if change else lines
        if lines or change:
            checkpoint['param_schedulers'] = [dict(state) for state in self._first_states]
            self._is_behind = True
        return lines + taken

    def _is_of_these_kinds(self, states: Any) -> bool:
        """Return True if each state has the fields of the scheduler that would load it."""
        fields = [set(state) for state in self._first_states]
        return isinstance(states, list) and fields == [set(state) for state in states]

    def catch_up(self, runner: Runner) -> None:
        """Step a schedule that does not have the checkpoint's state to the run's update."""
        if not self._is_behind:
            return
        self._is_behind = False
        groups = runner.optim_wrapper.param_groups
        names = {scheduler.param_name for scheduler in self.schedulers}
        # OneCycle has the range in the group, and Adam its momentum in betas.
        keys = {f'{prefix}{name}' for name in names for prefix in ('', 'initial_', 'max_', 'min_')}
        for group, first in zip(groups, self._first_groups, strict=True):
            group.update({key: first[key] for key in {*keys, 'betas'} & set(first)})
        length = max(1, runner.max_iters // runner.max_epochs)
        if runner.epoch:
            # In a smaller data set before, epochs were shorter.
            length = min(length, runner.iter // runner.epoch)
        with catch_warnings():
            # The optimizer has not stepped in this process yet.
            filterwarnings('ignore', 'Detected call of `scheduler.step')
            for update in range(1, runner.iter + 1):
                epoch_ends = update % length == 0 and update // length <= runner.epoch
                for by_epoch in (False, True) if epoch_ends else (False,):
                    for scheduler in self.schedulers:
                        if scheduler.by_epoch is by_epoch:
                            scheduler.step()


def _changed_lr(checkpoint: dict[str, Any], configured: list[dict[str, Any]]) -> str | None:
    """Return the change of the LR in the first group where config and checkpoint differ."""
    pairs = zip(_saved_lrs(checkpoint), configured, strict=False)
    changes = [(old, group['lr']) for old, group in pairs if old != group['lr']]
    return f'lr {as_text(changes[0][0])} -> {as_text(changes[0][1])}' if changes else None


def _saved_lrs(checkpoint: dict[str, Any]) -> list[float]:
    groups = groups_of(checkpoint['optimizer']) if checkpoint.get('optimizer') else []
    recorded = checkpoint['meta'].get(OPTIMIZER, {}).get('groups') or groups
    return [group.get('initial_lr', group['lr']) for group in recorded] if groups else []


def _scale(checkpoint: dict[str, Any], configured: list[dict[str, Any]]) -> None:
    """Scale the LR, which a user's hook may have changed, in a run without schedulers."""
    saved, groups = _saved_lrs(checkpoint), groups_of(checkpoint['optimizer'])
    for group, old, own in zip(groups, saved, configured, strict=False):
        group['lr'] = group['lr'] * own['lr'] / old if old else own['lr']


def _is_setting(key: str) -> bool:
    """Return False for the fields that a scheduler changes as it steps."""
    return not key.startswith('_') and key not in (
        *('optimizer', 'last_step', 'base_values', 'verbose', 'best'),
        *('num_bad_epochs', 'cooldown_counter', 'last_epoch', 'update'),
    )


def as_text(value: Any) -> str:
    """Return a setting as text for the log."""
    return f'{value:g}' if isinstance(value, float) else str(value)
