"""Say in words what branches show, and what to put into the config."""

from collections.abc import Mapping, Sequence

from mmengine.config import Config

from ..recipes.change import apply_changes
from ..recipes.optimizer import absolute_lrs
from ..results.settings import optimizer_config
from .comparison import EDGE_MARGIN, Compared, edge, largest_batch, suggested_lr


def lr_conclusion(compared: Sequence[Compared], cfg: Config, base_lr: float) -> str:
    """Return the lines on the edge of stability and on the suggested LR, or on what to try.

    Args:
        compared (Sequence[Compared]): Branches with several LRs.
        cfg (Config): Recipe.
        base_lr (float): LR of the recipe, after scaling.

    Returns:
        str: The lines.
    """
    (low, high), lr = edge(compared), suggested_lr(compared)
    if high is None:
        lines = [f'No LR diverged: the edge of stability is above {low:g}.']
    elif low is None:
        all_diverged = all(one.diverged for one in compared)
        name = f'Every LR diverged, down to {high:g}' if all_diverged else f'LR {high:g} diverged'
        return f'{name}. Try lower ones with --lr.\n'
    else:
        lines = [f'Edge of stability: between LR {low:g} and {high:g}.']
    if lr is None:
        lines.append(
            'Every LR of the last stage diverged. Try LRs below the edge with --lr, without '
            '--halving.'
        )
        return '\n'.join([*lines, ''])
    stable = [one for one in compared if one.whole and not one.diverged]
    best = min(stable, key=lambda one: one.loss).curve.value
    reason = f'the largest LR within one standard error of the best ({best:g})'
    if high is not None:
        reason += f', at most the smallest LR that diverged / {EDGE_MARGIN:g}'
    lines.append(f'Suggested LR: {lr:g}, {reason}.')
    values = [one.curve.value for one in compared]
    if best == values[0] or (best == values[-1] and high is None):
        lines.append(f'The best LR {best:g} is at the edge of the grid: try LRs beyond it.')
    lines += ['', _setting(cfg, lr / base_lr), '', '']
    return '\n'.join(lines)


def batch_conclusion(
    compared: Sequence[Compared], cfg: Config, base_lrs: Mapping[float, float], tolerance: float
) -> str:
    """Return the lines on the largest batch, or on what to try.

    Args:
        compared (Sequence[Compared]): Branches with several batches.
        cfg (Config): Recipe.
        base_lrs (Mapping[float, float]): LR of the recipe with each batch, after scaling.
        tolerance (float): Tolerated excess over the smallest batch's loss, as a fraction of it.

    Returns:
        str: The lines.
    """
    batch = largest_batch(compared, tolerance)
    smallest = compared[0].curve.value
    if batch is None:
        return (
            f'The smallest batch {smallest:g} diverged: there is nothing to compare the others '
            'with. Try a lower --lr.\n'
        )
    lr = next(one.curve.lr for one in compared if one.curve.value == batch)
    lines = [
        f'Largest batch within {100 * tolerance:g} % of the loss of batch {smallest:g}: {batch:g}.'
    ]
    if batch == compared[-1].curve.value:
        lines.append('It is the largest that was tried: a larger one may do as well.')
    lines += [
        '',
        f'    train_cfg = dict(global_batch_size={batch:g})',
        _setting(cfg, lr / base_lrs[batch]),
        '',
        '',
    ]
    return '\n'.join(lines)


def _setting(cfg: Config, ratio: float) -> str:
    """Return the line for the config that multiplies its LRs by a ratio."""
    lr = optimizer_config(cfg)['lr'] * ratio
    changed = apply_changes(Config(), absolute_lrs(cfg, ratio)).get('optim_wrapper', {})
    parts = [f'{name}={value!r}' for name, value in changed.items()]
    return f'    optim_wrapper = dict({", ".join([f"optimizer=dict(lr={lr:.6g})", *parts])})'
