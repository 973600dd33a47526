"""Detect parameters without a gradient, for which DDP would wait forever."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import SettingError


class UnusedParametersError(SettingError):
    """Parameters of the model had no part in the loss of a rank's last micro-batch.

    It is raised on that rank alone. The others wait for its gradients.
    """

    alone = True


def check_all_used(model: nn.Module) -> None:
    """Raise an error if DDP could not synchronise all gradients.

    Otherwise this rank's next collective would meet the gradients of the others.

    Args:
        model (nn.Module): The model, after a backward pass that synchronises.

    Raises:
        UnusedParametersError: If a parameter had no part in the loss.
    """
    if not isinstance(model, DistributedDataParallel):
        return
    try:
        model._check_reducer_finalized()
    except RuntimeError as error:
        if 'finished reduction' not in str(error):
            raise
        raise UnusedParametersError(
            'model: some of its parameters had no part in the loss of a micro-batch, as those of '
            'a head on pictures without objects. Must be find_unused_parameters=True in the '
            'config (or model_wrapper_cfg.find_unused_parameters).'
        ) from error
