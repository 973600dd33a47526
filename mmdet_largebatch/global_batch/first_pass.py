"""The pass over the micro-batches of a rank that comes before the one with gradients."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property, partial
from logging import WARNING
from typing import Any

from mmengine.logging import print_log
from torch import nn

from .changed_parameters import ChangedParameters
from .gradient_accumulation import GradientAccumulator
from .model_state import ModelState
from .rank_means import RankMeans
from .remembering import changing_state_message
from .seeding import MODEL, seed_generators


class FirstPass:
    """Record the calls of ``reduce_mean`` in a pass without gradients.

    The pass leaves the model as it was. In the first update it looks for state of the model that
    each micro-batch changes. Autograd records the pass only if the model's code needs it, as for a
    hook on a tensor.

    Args:
        model (nn.Module): The model, wrapped by DDP or not.
        parameters (ChangedParameters): Parameters that the pass may change.
        rank_means (RankMeans): Records the calls, and takes their means.
    """

    def __init__(
        self, model: nn.Module, parameters: ChangedParameters, rank_means: RankMeans
    ) -> None:
        self.model: Any = model
        self.parameters = parameters
        self.rank_means = rank_means
        self._looked = self._with_gradients = False

    @cached_property
    def _state(self) -> ModelState:
        return ModelState(self.model)

    def __call__(
        self,
        batches: Iterable[Any],
        share: list[int],
        key: tuple[int, int],
        accumulator: GradientAccumulator,
    ) -> list[Any]:
        """Compute the micro-batches of this rank, one after the other.

        Args:
            batches (Iterable): Their data.
            share (list[int]): Their indices in the update.
            key (tuple[int, int]): Seed of the run, and the update.
            accumulator (GradientAccumulator): Makes the context of the model's ``train_step``.

        Returns:
            list: The data, for the pass with gradients.
        """
        looks, self._looked = not self._looked, True
        self._save()
        after_first: list[Any] = []
        kept: list[Any] = []
        for place, (number, batch) in enumerate(zip(share, batches, strict=True)):
            # A preprocessor may change samples in place. Hooks hold the first micro-batch. The
            # copies of the others are kept: tensors of a data worker are in shared memory, with an
            # open file each.
            copy = deepcopy(batch)
            kept.append(copy if place else batch)
            compute = partial(self._compute, number, key, accumulator)
            if not compute(batch if place else copy):
                self._with_gradients = True
                self._restore()
                self._save()
                compute(deepcopy(kept[-1]))
            if looks and place == 0:
                # What the first pass alone changes is made once, such as a table of anchors.
                after_first = self._state.contents()
            elif looks and place == 1:
                message = changing_state_message(self._state.changed(after_first))
                if message:
                    print_log(message, 'current', WARNING)
        self._restore()
        self.rank_means.exchange()
        return kept

    def _compute(
        self, number: int, key: tuple[int, int], accumulator: GradientAccumulator, batch: Any
    ) -> bool:
        """Compute a micro-batch. Return False if it may need gradients, and has none."""
        seed_generators((*key, number), MODEL)
        try:
            with (
                accumulator.probe(self._with_gradients) as optim_wrapper,
                self.rank_means.record(number),
                _without_search(self.model),
            ):
                self.model.train_step(batch, optim_wrapper=optim_wrapper)
        except (AssertionError, AttributeError, RuntimeError) as error:
            # One rank alone may meet another RuntimeError, such as that of full memory.
            other = isinstance(error, RuntimeError) and 'grad' not in str(error)
            if other or self._with_gradients:
                raise
            return False
        return True

    def _save(self) -> None:
        self._state.save()
        self.parameters.save()

    def _restore(self) -> None:
        self._state.restore()
        self.parameters.restore()


@contextmanager
def _without_search(model: Any) -> Iterator[None]:
    """Switch off MMEngine's search for parameters without a gradient, an option of its DDP."""
    searches = getattr(model, 'detect_anomalous_params', False)
    if searches:
        model.detect_anomalous_params = False
    try:
        yield
    finally:
        if searches:
            model.detect_anomalous_params = searches
