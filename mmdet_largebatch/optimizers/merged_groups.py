"""Parameter groups: as many as there are distinct settings, instead of one a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import LogRecord
from typing import Any

import torch.nn as nn
from mmdet.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper

from ..checks import check, check_flag, invalid

# Keys that MMEngine leaves in a group after it has applied them.
_APPLIED = ('lr_mult', 'decay_mult')
# Keys of a group that are no options.
_MEMBERS = ('params', 'param_names')


def component_of(name: str) -> str:
    """Return the component of the detector that a parameter belongs to.

    Args:
        name (str): The parameter's name, as in ``model.named_parameters()``.

    Returns:
        str: The first module in the name, such as ``backbone`` or ``rpn_head``; within a
        ``roi_head`` the second, such as ``bbox_head``.
    """
    first, _, rest = name.partition('.')
    return rest.partition('.')[0] if first == 'roi_head' and rest else first


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MergedGroupsConstructor(DefaultOptimWrapperConstructor):
    """MMEngine's ``paramwise_cfg``, then one group per distinct setting.

    :class:`DefaultOptimWrapperConstructor` makes a group for every tensor as soon as
    ``paramwise_cfg`` says anything: 168 for Mask R-CNN R50, each of which costs an optimizer that
    works group by group its own kernel launches. Here tensors of equal settings share a group, 2
    for Mask R-CNN R50 with undecayed biases and norms. The order within a group is the model's,
    and ``param_names`` of a group holds the names.

    Frozen parameters are in the groups too, with the settings that they have once a hook unfreezes
    them; until then they have no gradient and no optimizer steps them. MMEngine has them only
    without ``paramwise_cfg``.

    A tensor that several modules share is in one group once, under its first name, as in
    ``model.parameters()``.

    Args:
        optim_wrapper_cfg (dict): The config of the optim wrapper, with ``optimizer``.
        paramwise_cfg (dict, optional): All that :class:`DefaultOptimWrapperConstructor` has, and
            two more. ``by_component`` (bool): whether tensors of different components (see
            :func:`component_of`) stay in groups apart, each with its name under ``component``.
            ``flat_options`` (dict): options of the optimizer's groups for each tensor of at most
            one dimension, that is for biases and norm parameters; they override every other
            option, also those of ``custom_keys``. Defaults to None.

    Raises:
        SettingError: If ``by_component`` is no bool, ``flat_options`` is no dict of options of the
            optimizer, or modules share a tensor with ``bypass_duplicate=False``.

    Examples:
        In a config:

        >>> optim_wrapper = dict(
        ...     constructor='MergedGroupsConstructor',
        ...     optimizer=dict(type='LAMB', lr=1e-3, weight_decay=1e-4),
        ...     paramwise_cfg=dict(flat_options=dict(weight_decay=0.0)))

        The groups of a small model:

        >>> from torch import nn
        >>> from mmdet_largebatch import MergedGroupsConstructor
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
        >>> construct = MergedGroupsConstructor(
        ...     dict(optimizer=dict(type='SGD', lr=0.02, weight_decay=1e-4)),
        ...     dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
        >>> for group in construct(model).optimizer.param_groups:
        ...     print(group['weight_decay'], group['param_names'])
        0.0001 ['0.weight', '2.weight']
        0.0 ['0.bias', '1.weight', '1.bias', '2.bias']
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        # A copy that is never empty: MMEngine asks for groups only where it says something.
        options = {'custom_keys': {}, **(paramwise_cfg or {})}
        self.by_component = options.pop('by_component', False)
        check_flag('paramwise_cfg.by_component', self.by_component)
        self.flat_options = options.pop('flat_options', None) or {}
        ok = isinstance(self.flat_options, dict)
        wanted = 'a dict of options, such as dict(weight_decay=0.0)'
        check(ok, 'paramwise_cfg.flat_options', self.flat_options, wanted)
        super().__init__(optim_wrapper_cfg, options)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optim wrapper of a model.

        Args:
            model (nn.Module): The model, in DDP or not.

        Returns:
            OptimWrapper: The wrapper of the optimizer.
        """
        optim_wrapper = super().__call__(model)
        groups = optim_wrapper.optimizer.param_groups
        known = optim_wrapper.optimizer.defaults
        unknown = [option for option in self.flat_options if option not in known]
        kind = type(optim_wrapper.optimizer).__name__
        wanted = f"options of {kind}'s groups: {', '.join(known)}"
        check(not unknown, 'paramwise_cfg.flat_options', unknown, wanted)
        trained = [p.requires_grad for group in groups for p in group['params']]
        frozen = len(trained) - sum(trained)
        print_log(
            f'{len(groups)} parameter groups for {sum(trained)} tensors'
            f'{f", and {frozen} frozen ones" if frozen else ""}.',
            logger='current',
        )
        for number, group in enumerate(groups):
            count = sum(p.numel() for p in group['params'])
            settings = {'lr': group['lr'], 'weight_decay': group.get('weight_decay')}
            settings |= {k: group[k] for k in ('component',) if k in group}
            text = ', '.join(f'{k}={v}' for k, v in settings.items() if v is not None)
            print_log(
                f'Parameter group {number}: {len(group["params"])} tensors, {count:,} elements, '
                f'{text}',
                logger='current',
            )
        return optim_wrapper

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add the groups of a module's parameters.

        Args:
            params (list[dict]): Groups, added to in place.
            module (nn.Module): The module; MMEngine calls this for its children in turn.
            prefix (str): The module's name, empty for the model.
            **kwargs: MMEngine's own.
        """
        if prefix:
            super().add_params(params, module, prefix=prefix, **kwargs)
            return
        single: list[dict[str, Any]] = []
        # MMEngine passes over what is frozen as long as it is.
        frozen = [p for p in module.parameters() if not p.requires_grad and p.is_floating_point()]
        try:
            for p in frozen:
                p.requires_grad = True
            with _without_lines('paramwise_options'):
                super().add_params(single, module, prefix=prefix, **kwargs)
        finally:
            for p in frozen:
                p.requires_grad = False
        merged = self._merge(single, self._names(module))
        # MMEngine logs the LR of the first group: one that trains.
        merged.sort(key=lambda group: not any(p.requires_grad for p in group['params']))
        params.extend(merged)

    def _names(self, model: nn.Module) -> dict[int, str]:
        """Return the first name of each tensor, by its id."""
        names: dict[int, str] = {}
        for name, p in model.named_parameters(remove_duplicate=False):
            first = names.setdefault(id(p), name)
            if first != name and self.paramwise_cfg.get('bypass_duplicate') is False:
                wanted = f'True or left out: {name} is the same tensor as {first}'
                raise invalid('paramwise_cfg.bypass_duplicate', False, wanted)
        return names

    def _merge(self, single: list[dict[str, Any]], names: dict[int, str]) -> list[dict[str, Any]]:
        merged: list[dict[str, Any]] = []
        for group in single:
            (p,) = group['params']
            name = names.pop(id(p), None)
            if name is None:
                continue  # Shared, and in a group already.
            setting = self._setting(group, name)
            target_group = next((g for g in merged if _options(g) == setting), None)
            if target_group is None:
                target_group = {'params': [], 'param_names': [], **setting}
                merged.append(target_group)
            target_group['params'].append(p)
            target_group['param_names'].append(name)
        return merged

    def _setting(self, group: dict[str, Any], name: str) -> dict[str, Any]:
        """Return the key of a group: all its options, with the optimizer's defaults."""
        own = {'lr': self.base_lr, 'weight_decay': self.base_wd}
        setting = {option: value for option, value in own.items() if value is not None}
        setting |= {k: v for k, v in _options(group).items() if k not in _APPLIED}
        if group['params'][0].ndim <= 1:
            setting |= self.flat_options
        if self.by_component:
            setting['component'] = component_of(name)
        return setting


@contextmanager
def _without_lines(beginning: str) -> Iterator[None]:
    """Keep MMEngine's log lines that begin so, one for each tensor and option, out of the log."""
    logger = MMLogger.get_current_instance()

    def keep(record: LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {option: value for option, value in group.items() if option not in _MEMBERS}
