"""Step schedulers on a metric that an evaluation may lack."""

from mmengine.hooks import ParamSchedulerHook
from mmengine.runner import Runner


class PatientParamSchedulerHook(ParamSchedulerHook):
    """MMEngine's hook, without its KeyError if an evaluation lacks the metric of a scheduler.

    COCO's metrics are absent if no object was detected. The scheduler is then not stepped.
    """

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Step the schedulers whose metric was measured."""
        schedulers = runner.param_schedulers
        if not isinstance(schedulers, list) or metrics is None:
            super().after_val_epoch(runner, metrics)
            return
        unmeasured = [
            scheduler
            for scheduler in schedulers
            if getattr(scheduler, 'need_val_args', False) and scheduler.monitor not in metrics
        ]
        for scheduler in unmeasured:
            runner.logger.warning(
                f'The evaluation has no {scheduler.monitor}: {type(scheduler).__name__} keeps the '
                f'{scheduler.param_name}.'
            )
        runner.param_schedulers = [s for s in schedulers if s not in unmeasured]
        try:
            super().after_val_epoch(runner, metrics)
        finally:
            runner.param_schedulers = schedulers


def be_patient(runner: Runner) -> None:
    """Replace MMEngine's scheduler hook of a run by :class:`PatientParamSchedulerHook`."""
    for hook in runner.hooks:
        if type(hook) is ParamSchedulerHook:
            hook.__class__ = PatientParamSchedulerHook
