"""Find modules whose output depends on the number of ranks."""

from torch import nn

from ..checks import listed
from .collectives import MEAN, collectives


def rank_dependent_modules(model: nn.Module) -> dict[str, list[str]]:
    """Find modules whose result depends on how the global batch is spread over the ranks.

    Args:
        model (nn.Module): The model, in the mode that it trains in (``model.train()``), wrapped by
            DDP or not.

    Returns:
        dict[str, list[str]]: Names of the modules, by what is the matter with them. Empty for a
        model that trains the same on any number of ranks.
    """
    found: dict[str, list[str]] = {}
    for name, calls in _dependent(model).items():
        if 'SyncBN' in calls:
            kind = 'SyncBN, with statistics over the ranks'
        else:
            kind = f'communication between the ranks ({", ".join(sorted(calls))})'
        found.setdefault(kind, []).append(name)
    return found


def uneven_message(model: nn.Module, ranks: int, micro_batches: int) -> str | None:
    """Say why a model that communicates cannot be trained with shares of different sizes.

    A rank with more micro-batches than another would wait for it without end.

    Args:
        model (nn.Module): The model, in the mode that it trains in.
        ranks (int): Number of ranks.
        micro_batches (int): Number of micro-batches of an update.

    Returns:
        str, optional: One line for the user, None if it can be trained.
    """
    if micro_batches % ranks == 0:
        return None
    calls = _dependent(model)
    if not calls:
        return None
    names = [f'{name} ({", ".join(sorted(what))})' for name, what in calls.items()]
    why = f'the model communicates between the ranks in each: {listed(names)}'
    return uneven_line(ranks, micro_batches, why)


def uneven_line(ranks: int, micro_batches: int, why: str) -> str:
    """Say that shares of different sizes are refused.

    Args:
        ranks (int): Number of ranks.
        micro_batches (int): Number of micro-batches of an update.
        why (str): The reason, to follow "and".

    Returns:
        str: One line for the user.
    """
    divisors = [str(n) for n in range(1, micro_batches + 1) if micro_batches % n == 0]
    fitting = ' or '.join(filter(None, (', '.join(divisors[:-1]), divisors[-1])))
    return (
        f'{ranks} ranks cannot share the {micro_batches} micro-batches of an update evenly, and '
        f'{why}. Must be {fitting} ranks, or another train_cfg.global_batch_size.'
    )


def _dependent(model: nn.Module) -> dict[str, set[str]]:
    """Return what communicates by name; :class:`RankMeans` takes care of ``reduce_mean``."""
    found = {name: calls - {MEAN} for name, calls in collectives(model).items()}
    return {name: calls for name, calls in found.items() if calls}
