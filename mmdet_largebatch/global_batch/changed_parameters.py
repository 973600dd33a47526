"""Parameters that a forward pass changes, such as those of a mean teacher."""

from logging import WARNING

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..checks import listed
from ..errors import SettingError
from .model_state import all_modules
from .rank_dependence import uneven_line
from .remembering import changing_state_message

# A teacher that begins as a copy of the weights stays equal to them in the first update.
LOOKS = 2


class UnevenChangesError(SettingError):
    """Ranks would change parameters of their own in different numbers of micro-batches.

    A rank with a single micro-batch does not see it.
    """

    alone = True


class ChangedParameters:
    """Undo and name what the forward passes of an update do to parameters.

    In the first updates of a run all parameters are watched, later those that changed. Their copies
    are on the CPU.

    Args:
        model (nn.Module): The model, wrapped by DDP or not.
        ranks (int): Number of ranks.
        micro_batches (int): Number of micro-batches of an update, over all ranks.
    """

    def __init__(self, model: nn.Module, ranks: int, micro_batches: int) -> None:
        self.model = model
        self.ranks = ranks
        self.micro_batches = micro_batches
        self._looks = LOOKS if micro_batches > ranks else 0
        self._watched: dict[str, nn.Parameter] | None = None
        self._found: dict[str, nn.Parameter] = {}

    def save(self) -> None:
        """Take a copy."""
        self._saved = self._copies()

    def restore(self) -> None:
        """Put everything back to the copy."""
        for name, p in self._changed(self._saved).items():
            p.data.copy_(self._saved[name])
        self._saved = {}

    def look(self, place: int, last: int) -> None:
        """Look at the parameters after a micro-batch with gradients.

        Args:
            place (int): Index of the micro-batch among those of this rank.
            last (int): Index of the last one.

        Raises:
            UnevenChangesError: If each micro-batch changes parameters, and some ranks compute more
                micro-batches than others.
        """
        if self._looks and place == 0:
            self._after_first = self._copies()
        if not self._looks or place < last:
            return
        changed = self._changed(self._after_first)
        names = [name for name in changed if name not in self._found]
        self._found |= changed
        self._after_first = {}
        self._looks -= 1
        if not self._looks:
            self._watched = self._found
        if names and self.micro_batches % self.ranks:
            why = f'each changes {listed(names)} on its own rank alone'
            raise UnevenChangesError(uneven_line(self.ranks, self.micro_batches, why))
        if message := changing_state_message(names):
            print_log(message, 'current', WARNING)

    def _copies(self) -> dict[str, Tensor]:
        if self._watched is None:
            named = {
                p: '.'.join(filter(None, (where, name)))
                for where, module in all_modules(self.model)
                for name, p in module.named_parameters(recurse=False)
            }
            self._watched = {name: p for p, name in named.items()}
        return {name: p.detach().to('cpu', copy=True) for name, p in self._watched.items()}

    def _changed(self, earlier: dict[str, Tensor]) -> dict[str, nn.Parameter]:
        watched = self._watched or {}
        return {
            name: watched[name]
            for name, copy in earlier.items()
            if not torch.allclose(watched[name].detach().cpu(), copy, 0, 0, equal_nan=True)
        }
