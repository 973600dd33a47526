"""Check the names of metrics by which the best checkpoints are saved."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.runner import Runner

from ..checks import invalid, listed
from ..utils.type_names import is_stock


def check_names(runner: Runner, names: Sequence[str]) -> None:
    """Refuse a name that no evaluation of the run can have.

    The names of a metric begin with its prefix. Nothing is refused if a metric has no prefix, or if
    a user's own evaluator, metric or hook may add other names.

    Args:
        runner (Runner): The runner of a training.
        names (Sequence[str]): ``save_best`` of the checkpoint hook.

    Raises:
        SettingError: If a name begins with no prefix.
    """
    evaluator = getattr(runner.val_loop, 'evaluator', None)
    metrics = evaluator.metrics if isinstance(evaluator, Evaluator) else []
    known = (
        type(evaluator) is Evaluator
        and all(type(metric).evaluate is BaseMetric.evaluate for metric in metrics)
        and all(is_stock(type(hook), 'after_val_epoch') for hook in runner.hooks)
    )
    prefixes = tuple(f'{metric.prefix}/' if metric.prefix else '' for metric in metrics)
    for name in names:
        if prefixes and known and name != 'auto' and not name.startswith(prefixes):
            wanted = (
                f'a name that begins with {" or ".join(prefixes)}, as those of val_evaluator do'
            )
            raise invalid('default_hooks.checkpoint.save_best', name, wanted)


def with_absent(runner: Runner, names: Sequence[str], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Add None for the metrics that an evaluation lacks, and warn.

    COCO's metrics are absent if no object was detected. MMEngine's hook skips None, and raises a
    KeyError for an absent name.

    Args:
        runner (Runner): The runner.
        names (Sequence[str]): Names of the metrics by which the best checkpoints are saved.
        metrics (Mapping[str, Any]): Results of an evaluation.

    Returns:
        dict[str, Any]: The results, and None for each absent name but ``'auto'``.
    """
    absent = [name for name in names if name not in metrics and name != 'auto']
    if absent:
        runner.logger.warning(
            f'The evaluation has no {listed(absent)}, only {listed(list(metrics))}: no best '
            'checkpoint is saved by it.'
        )
    return {**metrics, **dict.fromkeys(absent)}
