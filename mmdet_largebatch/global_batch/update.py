"""Compute one update of the global batch, micro-batch by micro-batch."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from ..utils.runner import loss_scale
from .changed_parameters import ChangedParameters
from .first_pass import FirstPass
from .gradient_accumulation import GradientAccumulator
from .logged_means import LoggedMeans
from .micro_batch_gradients import NOT_FINITE, MicroBatchGradients
from .rank_means import RankMeans
from .running_statistics import RunningStatistics
from .sampler import GlobalBatchSampler
from .seeding import MODEL, seed_generators
from .unfrozen import Unfrozen
from .unused import check_all_used


class GlobalBatchUpdate:
    """Compute the mean gradient of a global batch, and make the optimizer step.

    The methods are called in the order in which they are defined.

    Args:
        runner (Runner): The runner, before any hook may have unfrozen a part of its model.
        sampler (GlobalBatchSampler): The sampler, which knows the micro-batches of this rank.
        exact_sum (bool): Whether to add gradients as integers.
    """

    def __init__(self, runner: Runner, sampler: GlobalBatchSampler, exact_sum: bool) -> None:
        self.runner = runner
        self.sampler = sampler
        self.exact_sum = exact_sum
        counts = sampler.ranks, sampler.micro_batches
        self._logged_means = LoggedMeans(*counts, sampler.rank)
        self._rank_means = RankMeans(runner.model, *counts, exact_sum)
        self._parameters = ChangedParameters(runner.model, *counts)
        self._first_pass = FirstPass(runner.model, self._parameters, self._rank_means)
        self._statistics = RunningStatistics(runner.model, *counts)
        self._unfrozen = Unfrozen(runner.model)
        self._optim_wrapper: OptimWrapper | None = None
        self._alone: MicroBatchGradients | None = None

    def begin_epoch(self) -> None:
        """Find the layers that have running statistics."""
        self._statistics.look()

    def compute(self, batches: Iterable[Any], key: tuple[int, int]) -> list[dict[str, Any] | None]:
        """Compute losses and gradients of this rank's micro-batches, one after the other.

        Args:
            batches (Iterable): The data of these micro-batches.
            key (tuple[int, int]): Seed of the run, and the update.

        Returns:
            list[dict[str, Any], optional]: For each micro-batch the logged values by name.
        """
        share, has_listeners = self.sampler.share, self._begin()
        if self._rank_means.probing:
            batches = self._first_pass(batches, share, key, self._accumulator)
        self._statistics.begin()
        outputs: list[dict[str, Any] | None] = []
        for place, (number, batch) in enumerate(zip(share, batches, strict=True)):
            seed_generators((*key, number), MODEL)
            listen = partial(self._tell, number) if has_listeners else None
            with (
                self._accumulator.micro_batch(number == share[-1], listen) as optim_wrapper,
                self._rank_means.micro_batch(number),
                self._statistics.micro_batch(),
            ):
                values = self.runner.model.train_step(batch, optim_wrapper=optim_wrapper)
            self._parameters.look(place, len(share) - 1)
            outputs.append(self._logged_means.detached(values))
        return outputs

    def synchronise(self) -> list[str]:
        """Give every rank the mean gradient and the mean running statistics.

        Returns:
            list[str]: A line for each gradient that cannot be added.
        """
        bad: list[str] = []
        if self._accumulator.alone is None:
            check_all_used(self.runner.model)
            self._unfrozen.synchronise()
        else:
            left_to_scaler = loss_scale(self.runner.optim_wrapper) > 1
            bad = [
                f'the gradient of {name} {why}'
                for name, why in self._accumulator.alone.finish().items()
                if not (left_to_scaler and why == NOT_FINITE)
            ]
        self._rank_means.finish()
        self._statistics.finish()
        return bad

    def means(self, outputs: list[dict[str, Any] | None]) -> dict[str, Any] | None:
        """Return the means of the logged values over the global batch, None if there are none."""
        means, self._asked = self._logged_means(outputs, self._accumulator.asked)
        return means

    def step(self) -> None:
        """Make the optimizer step, if a micro-batch requested it."""
        if self._asked:
            self._accumulator.finish()

    def _begin(self) -> bool:
        """Begin an update. Return True if hooks listen to the gradient of each micro-batch."""
        optim_wrapper = self.runner.optim_wrapper
        counts = self.sampler.ranks, self.sampler.micro_batches
        if self._optim_wrapper is not optim_wrapper:
            self._optim_wrapper = optim_wrapper
            self._accumulator = GradientAccumulator(
                optim_wrapper, *counts, len(self.sampler.share), self._backward
            )
        listeners = [hook for hook in self.runner.hooks if hasattr(hook, 'after_micro_batch')]
        wanted = [getattr(hook, 'wants_micro_batches', None) for hook in listeners]
        if not self.exact_sum and not any(wants and wants(self.runner) for wants in wanted):
            self._accumulator.begin()
            return False
        if self._alone is None:
            self._alone = MicroBatchGradients(self.runner.model, *counts, self.exact_sum)
        self._alone.begin()
        self._accumulator.begin(self._alone)
        return bool(listeners)

    @contextmanager
    def _backward(self) -> Iterator[None]:
        with self._rank_means.backward(), self._statistics.backward():
            yield

    def _tell(self, index: int, gradients: dict[str, Tensor]) -> None:
        self.runner.call_hook('after_micro_batch', index=index, gradients=gradients)
