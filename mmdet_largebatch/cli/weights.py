"""Refuse a checkpoint of another model. MMEngine would evaluate random weights."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from ..compat import load_from
from ..errors import SettingError

MISMATCH = re.compile(
    r'size mismatch for ([^:]+): copying a param with shape torch\.Size\((.*?)\) from checkpoint, '
    r'the shape in current model is torch\.Size\((.*?)\)'
)


def check_weights(model: nn.Module, checkpoint: Mapping[str, Any], path: str | None) -> None:
    """Load the weights, and refuse those of another model.

    MMEngine lists missing and unexpected keys.

    Args:
        model (nn.Module): The model, wrapped or not.
        checkpoint (Mapping[str, Any]): The content of the file.
        path (str, optional): The file, for the message.

    Raises:
        SettingError: If the shape of a parameter differs, or no name agrees.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = cast(nn.Module, model.module)
    state = checkpoint.get('state_dict', checkpoint)
    named: Any = OrderedDict((key.removeprefix('module.'), value) for key, value in state.items())
    # By this, models convert weights of older versions.
    named._metadata = getattr(state, '_metadata', OrderedDict())
    must = "Must be a checkpoint of the config's model"
    try:
        keys = model.load_state_dict(named, strict=False)
    except RuntimeError as error:
        found = MISMATCH.findall(str(error))
        if not found:
            raise
        name, saved, wanted = found[0]
        more = f', and {len(found) - 1} more differ' if len(found) > 1 else ''
        raise SettingError(
            f'checkpoint={path}: its {name} has the shape {saved}, and the config asks for '
            f'{wanted}{more}. {must}; look at num_classes.'
        ) from error
    if len(keys.missing_keys) == len(model.state_dict()) > 0:
        raise SettingError(f"checkpoint={path}: it has none of the model's parameters. {must}.")


class WeightsCheckHook(Hook):
    """Check the weights that a test loads, by :func:`check_weights`."""

    # After hooks that swap weights, such as EMA.
    priority = 'LOWEST'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the weights.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The content of the file.

        Raises:
            SettingError: If the weights are of another model.
        """
        check_weights(runner.model, checkpoint, load_from(runner))
