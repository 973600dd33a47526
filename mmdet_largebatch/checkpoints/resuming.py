"""Resume with the state of a checkpoint and the settings of the config; report each difference."""

import inspect
from collections import Counter
from typing import Any

from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner
from mmengine.utils import is_method_overridden

from ..compat import randomness
from ..errors import SettingError
from ..optimizers.base import LayerwiseOptimizer
from ..utils.runner import find_hook, has_one_optimizer, repeats_epochs
from .comparing import left_out
from .hook_states import HOOKS_STATE, restore
from .optimizer_settings import OPTIMIZER, as_list, groups_of, saved_states, settings_of
from .resumed_schedule import ResumedSchedule, as_text


class Resuming:
    """Put the settings of a run into the checkpoint that it resumes from.

    Args:
        runner (Runner): The runner before it loads anything, with its optimizer built.
    """

    def __init__(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        # None for several optimizers.
        self.settings = settings_of(wrapper) if has_one_optimizer(wrapper) else None
        self.schedule = ResumedSchedule(runner)
        scaler = getattr(wrapper, 'loss_scaler', None)
        self._scaler = scaler and scaler.state_dict()

    def prepare(self, runner: Runner, checkpoint: dict[str, Any]) -> list[str]:
        """Put the config's settings into a checkpoint that is being loaded.

        Returns:
            list[str]: A line for each difference between checkpoint and config.
        """
        lines = left_out(runner, checkpoint['state_dict'])
        lines += [*_progress(runner, checkpoint), *_average(runner, checkpoint)]
        without = restore(runner, checkpoint.get(HOOKS_STATE, {}))
        lines += [f'no state of {name} in the checkpoint: it begins anew' for name in without]
        if self.settings is None:
            return lines
        if checkpoint.get('optimizer'):
            lines += self._loss_scaler(checkpoint['optimizer'])
            lines += self._options(runner, checkpoint, self.settings['groups'])
        else:
            checkpoint.pop('optimizer', None)
            lines.append('no optimizer in the checkpoint: its moments begin at 0')
        return lines + self.schedule.prepare(checkpoint, self.settings['groups'])

    def _loss_scaler(self, state: dict[str, Any]) -> list[str]:
        saved = state.get('loss_scaler')
        if saved and self._scaler:
            for key in ('growth_factor', 'backoff_factor', 'growth_interval'):
                if key in saved and key in self._scaler:
                    saved[key] = self._scaler[key]
            return []
        state.pop('loss_scaler', None)
        if self._scaler:
            return ['no loss scale in the checkpoint (trained without AMP): it begins anew']
        return ["the checkpoint's loss scale is dropped: this run is without AMP"] if saved else []

    def _options(
        self, runner: Runner, checkpoint: dict[str, Any], configured: list[dict[str, Any]]
    ) -> list[str]:
        """Put the options of the config into the checkpoint's parameter groups."""
        state, lines = checkpoint['optimizer'], []
        states = saved_states(runner, state)
        missing = [name for name, p, saved in states if p.requires_grad and not saved]
        if missing and any(saved for *_, saved in states):
            lines.append(
                f'no optimizer state of {missing[0]} and {len(missing) - 1} more in the '
                'checkpoint (trained only now): theirs begins at 0'
            )
        groups = groups_of(state)
        recorded = checkpoint['meta'].get(OPTIMIZER, {}).get('groups') or []
        # A checkpoint of MMEngine's own hook lacks the record.
        recorded = [*recorded, *groups[len(recorded) :]]
        names = self._option_names(runner)
        changes: Counter[str] = Counter()
        for own, saved, before in zip(configured, groups, recorded, strict=False):
            for name in names & set(own) & set(saved):
                old, new = as_list(before.get(name)), as_list(own[name])
                if name == 'amsgrad' and new and not old:
                    raise SettingError(
                        "optim_wrapper.optimizer.amsgrad=True: the checkpoint's optimizer kept no "
                        'maxima. Must be False to resume.'
                    )
                if old != new:
                    saved[name] = tuple(new) if isinstance(saved[name], tuple) else own[name]
                    changes[f'{name} {as_text(old)} -> {as_text(new)}'] += 1
        if changes:
            lines.append(f'optim_wrapper, as the config says: {", ".join(changes)}')
        return lines

    def _option_names(self, runner: Runner) -> set[str]:
        """Return the options of an optimizer that no schedule sets and no step changes."""
        optimizer = runner.optim_wrapper.optimizer
        names = set(inspect.signature(type(optimizer).__init__).parameters)
        if isinstance(optimizer, LayerwiseOptimizer):
            names |= set(optimizer.defaults)
        scheduled = {scheduler.param_name for scheduler in self.schedule.schedulers}
        if 'momentum' in scheduled:
            scheduled.add('betas')
        return names - scheduled - {'lr', 'params', 'self'}


def _progress(runner: Runner, checkpoint: dict[str, Any]) -> list[str]:
    """Compare progress, seed and classes."""
    meta, lines = checkpoint['meta'], []
    if 'message_hub' not in checkpoint:
        checkpoint['message_hub'] = dict(log_scalars={}, runtime_info={}, resumed_keys={})
        lines.append('no message_hub in the checkpoint: losses are averaged anew')
    if meta['iter'] >= runner.max_iters or meta['epoch'] >= runner.max_epochs:
        lines.append(
            f'the checkpoint is of epoch {meta["epoch"]}, update {meta["iter"]}, and '
            f'train_cfg.max_epochs={runner.max_epochs}: nothing is left to train'
        )
    length = len(runner.train_dataloader)
    if repeats_epochs(runner) and meta['iter'] != meta['epoch'] * length:
        lines.append(
            f'the checkpoint is of epoch {meta["epoch"]}, update {meta["iter"]}, and an epoch has '
            f'{length} updates: {type(runner.train_loop).__name__} begins epoch '
            f'{meta["epoch"] + 1} with update {meta["iter"] + 1}'
        )
    seed = randomness(runner).get('seed')
    if seed is not None and meta.get('seed') not in (None, seed):
        lines.append(f'seed {meta["seed"]} of the checkpoint is taken, not randomness.seed={seed}')
    here = (getattr(runner.train_dataloader.dataset, 'metainfo', None) or {}).get('classes')
    there = (meta.get('dataset_meta') or {}).get('classes')
    if here is not None and there is not None and list(here) != list(there):
        lines.append(
            f"the data's classes are {tuple(here)} and the checkpoint's {tuple(there)}: the "
            "names are the data's"
        )
    return lines


def _average(runner: Runner, checkpoint: dict[str, Any]) -> list[str]:
    """Compare averaged weights, and take the trained weights if the run has no average."""
    average, hook = checkpoint.get('ema_state_dict'), find_hook(runner, EMAHook)
    if average is None:
        line = 'no averaged weights (EMAHook) in the checkpoint: the average begins here'
        return [line] if hook else []
    if hook:
        return []
    if owners := [type(hook).__name__ for hook in runner.hooks if _may_own_the_average(hook)]:
        return [f'the averaged weights in the checkpoint are left to {", ".join(owners)}']
    # EMAHook saves the averaged weights as the model's, and the trained weights as the average.
    weights = checkpoint['state_dict']
    for name in weights:
        weights[name] = average.get(f'module.{name}', weights[name])
    return [
        'the checkpoint has averaged weights and the config has no EMAHook: the run continues '
        'with the trained weights, without an average'
    ]


def _may_own_the_average(hook: Hook) -> bool:
    """Return True for a user's hook that may have exchanged the weights, as EMAHook does."""
    points = ('before_save_checkpoint', 'after_load_checkpoint')
    return not isinstance(hook, CheckpointHook) and all(
        is_method_overridden(point, Hook, hook) for point in points
    )
