"""Take from a checkpoint its state and from the config its settings, and say so line by line."""

import inspect
from collections import Counter
from math import isfinite
from typing import Any
from warnings import catch_warnings, filterwarnings

from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper, ReduceOnPlateauParamScheduler
from mmengine.runner import Runner

from ..compat import load_from, randomness
from ..errors import SettingError
from ..optimizers.base import LayerwiseOptimizer
from ..schedulers import WarmupStepLR
from ..utils.runner import find_hook
from .comparing import OPTIMIZER, compare_weights, settings_of, without_state
from .hook_states import HOOKS_STATE, restore

# Schedules that multiply the LR, so that another base LR is another factor.
MULTIPLYING = ('LinearLR', 'ConstantLR', 'MultiStepLR', 'StepLR', 'ExponentialLR')
# Schedules whose settings are fields, read at every step.
SETTABLE = (*MULTIPLYING, 'CosineAnnealingLR', 'PolyLR')


class Resuming:
    """Merge a checkpoint with the settings of the run that resumes from it.

    Args:
        runner (Runner): The runner before it loads anything, with its optimizer built.
    """

    def __init__(self, runner: Runner) -> None:
        self._single = isinstance(runner.optim_wrapper, OptimWrapper)
        # The LR is that of before the schedule's first factor.
        self.settings = settings_of(runner.optim_wrapper) if self._single else None
        self._own_groups = self.settings['groups'] if self.settings is not None else []
        schedulers = runner.param_schedulers
        self._schedulers = schedulers if isinstance(schedulers, list) else []
        self._schedules = [dict(vars(scheduler)) for scheduler in self._schedulers]
        self._begin = [dict(group) for group in runner.optim_wrapper.param_groups]
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self._scaler = scaler and scaler.state_dict()
        self._behind = False

    def prepare(self, runner: Runner, checkpoint: dict[str, Any]) -> list[str]:
        """Put the config's settings into a checkpoint that is being loaded.

        Args:
            runner (Runner): The runner.
            checkpoint (dict[str, Any]): The checkpoint, changed in place.

        Returns:
            list[str]: Lines that say what is taken from where.
        """
        lines = [*self._progress(runner, checkpoint), *self._averages(runner, checkpoint)]
        without = restore(runner, checkpoint.get(HOOKS_STATE, {}))
        lines += [f'no state of {name} in the checkpoint: it begins anew' for name in without]
        if not self._single:
            return lines
        if checkpoint.get('optimizer'):
            lines += self._loss_scaler(checkpoint['optimizer'])
            lines += self._options(runner, checkpoint)
        else:
            checkpoint.pop('optimizer', None)
            lines.append('no optimizer in the checkpoint: its moments begin at 0')
        if self._schedulers and not isinstance(self._schedulers[0], WarmupStepLR):
            return lines + self._schedule(checkpoint)
        return lines + self._learning_rate(checkpoint, [])

    def catch_up(self, runner: Runner) -> None:
        """Bring a schedule of which the checkpoint has no state to the run's update.

        Args:
            runner (Runner): The runner, which has resumed by now.
        """
        if not self._behind:
            return
        self._behind = False
        groups = runner.optim_wrapper.param_groups
        for scheduler in self._schedulers:
            name = scheduler.param_name
            for group, begin in zip(groups, self._begin, strict=True):
                group.update({key: begin[key] for key in (name, f'initial_{name}') if key in begin})
        length = max(1, runner.max_iters // runner.max_epochs)
        with catch_warnings():
            # The optimizer has not stepped in this process yet.
            filterwarnings('ignore', 'Detected call of `scheduler.step')
            for update in range(1, runner.iter + 1):
                epoch_ends = update % length == 0 and update // length <= runner.epoch
                for by_epoch in (False, True) if epoch_ends else (False,):
                    for scheduler in self._schedulers:
                        if scheduler.by_epoch is by_epoch:
                            scheduler.step()

    def _progress(self, runner: Runner, checkpoint: dict[str, Any]) -> list[str]:
        meta, lines = checkpoint['meta'], []
        if 'message_hub' not in checkpoint:
            checkpoint['message_hub'] = dict(log_scalars={}, runtime_info={}, resumed_keys={})
            lines.append('no message_hub in the checkpoint: losses are averaged anew')
        if meta['iter'] >= runner.max_iters or meta['epoch'] >= runner.max_epochs:
            lines.append(
                f'the checkpoint is of epoch {meta["epoch"]}, update {meta["iter"]}, and '
                f'train_cfg.max_epochs={runner.max_epochs}: nothing is left to train'
            )
        seed = randomness(runner).get('seed')
        if seed is not None and meta.get('seed') not in (None, seed):
            lines.append(
                f'seed {meta["seed"]} of the checkpoint is taken, not randomness.seed={seed}'
            )
        here = (getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}).get('classes')
        there = (meta.get('dataset_meta') or {}).get('classes')
        if here is not None and there is not None and list(here) != list(there):
            lines.append(
                f"the data's classes are {tuple(here)} and the checkpoint's {tuple(there)}: the "
                "names are the data's"
            )
        return lines

    def _averages(self, runner: Runner, checkpoint: dict[str, Any]) -> list[str]:
        average, hook = checkpoint.get('ema_state_dict'), find_hook(runner, EMAHook)
        if average is None:
            line = 'no averaged weights (EMAHook) in the checkpoint: the average begins here'
            return [line] if hook else []
        if hook:
            return []
        # EMAHook saves the averaged weights as the model's, and the trained ones as the average.
        weights = checkpoint['state_dict']
        for name in weights:
            weights[name] = average.get(f'module.{name}', weights[name])
        return [
            'the checkpoint has averaged weights and the config has no EMAHook: the run goes on '
            'with the trained weights, without an average'
        ]

    def _loss_scaler(self, state: dict[str, Any]) -> list[str]:
        saved = state.get('loss_scaler')
        if saved and self._scaler:
            for key in ('growth_factor', 'backoff_factor', 'growth_interval'):
                if key in saved and key in self._scaler:
                    saved[key] = self._scaler[key]
            return []
        state.pop('loss_scaler', None)
        if self._scaler:
            return ['no loss scale in the checkpoint (it was trained without AMP): it begins anew']
        return ["the checkpoint's loss scale is left: this run is without AMP"] if saved else []

    def _options(self, runner: Runner, checkpoint: dict[str, Any]) -> list[str]:
        """Options of the groups that the config says, and that the schedule does not."""
        state, lines = checkpoint['optimizer'], []
        missing = without_state(runner, state)
        if missing:
            lines.append(
                f'no optimizer state of {missing[0]} and {len(missing) - 1} more in the '
                'checkpoint (trained only now): theirs begins at 0'
            )
        recorded = checkpoint['meta'].get(OPTIMIZER, {}).get('groups')
        names = self._option_names(runner)
        changes: Counter[str] = Counter()
        for index, saved in enumerate(_groups(state)[: len(self._own_groups)]):
            own = self._own_groups[index]
            before = recorded[index] if recorded and index < len(recorded) else saved
            for name in names & set(own) & set(saved):
                old, new = _comparable(before.get(name)), _comparable(own[name])
                if name == 'amsgrad' and new and not old:
                    raise SettingError(
                        "optim_wrapper.optimizer.amsgrad=True: the checkpoint's optimizer kept no "
                        'maxima. Must be False to resume.'
                    )
                if old != new:
                    saved[name] = tuple(new) if isinstance(saved[name], tuple) else own[name]
                    changes[f'{name} {_text(old)} -> {_text(new)}'] += 1
        if changes:
            lines.append(f'optim_wrapper, as the config says: {", ".join(changes)}')
        return lines

    def _option_names(self, runner: Runner) -> set:
        """Options, and not what some optimizers keep among them as they go."""
        optimizer = runner.optim_wrapper.optimizer
        names = set(inspect.signature(type(optimizer).__init__).parameters)
        if isinstance(optimizer, LayerwiseOptimizer):
            names |= set(optimizer.defaults)
        scheduled = {scheduler.param_name for scheduler in self._schedulers}
        if 'momentum' in scheduled:
            scheduled.add('betas')
        return names - scheduled - {'lr', 'params', 'self'}

    def _schedule(self, checkpoint: dict[str, Any]) -> list[str]:
        states = checkpoint.get('param_schedulers')
        if not states:
            self._behind = True
            if any(isinstance(s, ReduceOnPlateauParamScheduler) for s in self._schedulers):
                self._behind = False
                return ['no param_schedulers in the checkpoint: the schedule begins anew']
            update = checkpoint['meta']['iter']
            return [
                f'no param_schedulers in the checkpoint: the schedule is put to update {update}'
            ]
        lines = []
        for scheduler, own, state in zip(self._schedulers, self._schedules, states, strict=True):
            name = type(scheduler).__name__
            changed = [key for key in own if _is_setting(key) and own[key] != state.get(key)]
            if not changed:
                continue
            if name in SETTABLE and 'by_epoch' not in changed:
                state.update({key: own[key] for key in changed})
                lines.append(f'param_scheduler {name}, as the config says: {", ".join(changed)}')
            else:
                lines.append(
                    f"param_scheduler {name}: the checkpoint's {', '.join(changed)} stay, not the "
                    "config's"
                )
        return [*lines, *self._learning_rate(checkpoint, states)]

    def _learning_rate(self, checkpoint: dict[str, Any], states: list[dict]) -> list[str]:
        """Return the config's LR where it was changed and the schedule scales it."""
        state = checkpoint.get('optimizer')
        if not state:
            return []
        groups, own = _groups(state), [group['lr'] for group in self._own_groups]
        recorded = checkpoint['meta'].get(OPTIMIZER, {}).get('groups') or groups
        saved = [group.get('initial_lr', group['lr']) for group in recorded]
        if saved == own or len(saved) != len(own):
            return []
        change = f'lr {_text(saved[0])} -> {_text(own[0])}'
        if self._schedulers and isinstance(self._schedulers[0], WarmupStepLR):
            return [f'optim_wrapper, as the config says: {change}']
        others = [
            type(scheduler).__name__
            for scheduler in self._schedulers
            if type(scheduler).__name__ not in MULTIPLYING
        ]
        if others or not all(saved) or not all(map(isfinite, saved)):
            return [f'optim_wrapper: {change} is not taken, {others or "the LR of 0"} stays']
        factors = [new / old for new, old in zip(own, saved, strict=True)]
        for group, factor in zip(groups, factors, strict=True):
            for key in ('lr', 'initial_lr'):
                if key in group:
                    group[key] *= factor
        for scheduler in states:
            for key in ('base_values', '_last_value'):
                scheduler[key] = [x * f for x, f in zip(scheduler[key], factors, strict=True)]
        return [f'optim_wrapper, as the config says: {change}']


def weights_taken(runner: Runner, checkpoint: dict[str, Any]) -> str:
    """Sum up which weights of a checkpoint a model takes that does not resume.

    Args:
        runner (Runner): The runner.
        checkpoint (dict[str, Any]): The checkpoint.

    Returns:
        str: One line.
    """
    state_dict = checkpoint.get('state_dict', checkpoint)
    differ = compare_weights(runner.model, state_dict)
    unfit = len(differ['shape']) + len(differ['unexpected'])
    parts = [f'{len(state_dict) - unfit} of {len(state_dict)} tensors are taken']
    for kind, words in dict(
        shape='of another shape', missing='of the model not in it', unexpected='not in the model'
    ).items():
        if differ[kind]:
            parts.append(f'{len(differ[kind])} {words} (such as {differ[kind][0]})')
    return f'load_from={load_from(runner)}: {", ".join(parts)}.'


def _groups(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the groups in MMEngine's order, with the group that it logs last."""
    base = state.get('base_param_settings')
    return [*state['param_groups'], *([base] if base is not None else [])]


def _is_setting(key: str) -> bool:
    return not key.startswith('_') and key not in (
        *('optimizer', 'last_step', 'base_values', 'verbose', 'best'),
        *('num_bad_epochs', 'cooldown_counter', 'last_epoch'),
    )


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    return f'{value:g}' if isinstance(value, float) else str(value)
