"""Evaluations within a training that measure nothing."""

from mmengine.hooks import ParamSchedulerHook
from mmengine.logging import MessageHub
from mmengine.runner import Runner


def forget_evaluation(message_hub: MessageHub) -> None:
    """Remove the results of the last evaluation.

    MMEngine's logger takes the newest value of each name, whichever evaluation it is from. An
    evaluation that finds no object has no values.

    Args:
        message_hub (MessageHub): Of the run.
    """
    for results in (message_hub.log_scalars, message_hub.runtime_info):
        for key in [key for key in results if key.startswith('val/')]:
            del results[key]


class PatientParamSchedulerHook(ParamSchedulerHook):
    """Leaves a scheduler as it is where its metric was not measured.

    MMEngine's hook ends the training with a KeyError.
    """

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Step the schedulers that have their metric.

        Args:
            runner (Runner): The runner.
            metrics (dict[str, float], optional): Results of the evaluation.
        """
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
                f'The evaluation has no {scheduler.monitor}: {type(scheduler).__name__} leaves the '
                f'{scheduler.param_name} as it is.'
            )
        runner.param_schedulers = [s for s in schedulers if s not in unmeasured]
        try:
            super().after_val_epoch(runner, metrics)
        finally:
            runner.param_schedulers = schedulers


def be_patient(runner: Runner) -> None:
    """Let the run's scheduler hook leave out metrics that were not measured.

    Args:
        runner (Runner): The runner.
    """
    for hook in runner.hooks:
        if type(hook) is ParamSchedulerHook:
            hook.__class__ = PatientParamSchedulerHook
