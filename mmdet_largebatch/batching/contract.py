"""Which models are beyond what a global batch can promise."""

from inspect import isfunction
from typing import Dict, List

from mmengine.model import is_model_wrapper
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def _reduces_over_ranks(module: nn.Module) -> bool:
    """Whether a method of the module's class calls mmdet's ``reduce_mean``, which takes a mean over
    ranks, not over micro-batches. It is the name that mmdet's heads average their normaliser by.
    """
    return any(
        isfunction(method) and 'reduce_mean' in method.__code__.co_names
        for cls in type(module).__mro__
        for method in vars(cls).values()
    )


def outside_contract(model: nn.Module) -> Dict[str, List[str]]:
    """Modules whose result depends on how the global batch is spread over the ranks.

    Args:
        model (nn.Module): The model, in the mode that it trains in (``model.train()``), wrapped by
            DDP or not.

    Returns:
        Dict[str, List[str]]: Names of the modules, by what is the matter with them. Empty for a
        model that trains the same on any number of ranks.
    """
    if is_model_wrapper(model):
        model = model.module
    found: Dict[str, List[str]] = {}
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            kind = (
                'SyncBN, with statistics over the ranks'
                if 'Sync' in type(module).__name__
                else 'batch norm that trains its statistics on each rank apart'
            )
            found.setdefault(kind, []).append(name)
        if _reduces_over_ranks(module):
            found.setdefault('a loss normalised over the ranks', []).append(name)
    return found
