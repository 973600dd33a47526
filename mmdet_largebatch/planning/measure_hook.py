"""A hook that times the parts of each update."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from mmengine.device import is_cuda_available
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

# Names of what ends an interval, and its seconds.
Events = list[tuple[str, float]]


class Measured(Exception):
    """Ends the training that is measured."""


class Stopwatch:
    """Note the time that passes up to each named event, in seconds."""

    def __init__(self) -> None:
        self.events: Events = []
        self.restart()

    def restart(self) -> None:
        """Begin the next interval."""
        self.last = self._now()

    def note(self, event: str) -> None:
        """Note the interval that ends now."""
        now = self._now()
        self.events.append((event, now - self.last))
        self.last = now

    @staticmethod
    def _now() -> float:
        if is_cuda_available():
            torch.cuda.synchronize()
        return perf_counter()


class TimedLoader:
    """A data loader that notes how long each micro-batch takes to load."""

    def __init__(self, loader: DataLoader, watch: Stopwatch) -> None:
        self.loader, self.watch = loader, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        self.watch.note('rest')
        for batch in batches:
            self.watch.note('loaded')
            yield batch
            self.watch.note('after')


class MeasureHook(Hook):
    """Collect the events of each update, and end the training when there are enough.

    An update is the list of its events and their seconds: ``loaded``, ``probe`` (a first pass),
    ``model`` (the ``train_step`` of a micro-batch), ``after`` (what follows it until the next
    micro-batch) and ``rest``.

    Args:
        updates (int): Updates after which the training ends.
        told (Callable): Called after each update.
    """

    priority = 'LOWEST'

    def __init__(self, updates: int, told: Callable[[], None]) -> None:
        self.wanted, self.told = updates, told
        self.watch = Stopwatch()
        self.updates: list[Events] = []

    def before_train(self, runner: Runner) -> None:
        """Time the loader and the model's ``train_step``."""
        loop: Any = runner.train_loop
        loop.dataloader = TimedLoader(loop.dataloader, self.watch)
        model: Any = runner.model
        train_step = model.train_step

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.watch.note('after')
            done = train_step(*args, **kwargs)
            self.watch.note('model' if torch.is_grad_enabled() else 'probe')
            return done

        model.train_step = timed

    def before_train_epoch(self, runner: Runner) -> None:
        """Leave out what lies between two epochs."""
        self.watch.restart()
        self.watch.events = []

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """End an update."""
        self.watch.note('rest')
        self.updates.append(self.watch.events)
        self.watch.events = []
        self.told()
        if len(self.updates) == self.wanted:
            raise Measured


@dataclass
class MeasuredUpdate:
    """The parts of an update, in seconds.

    Args:
        load (np.ndarray): Loading of each micro-batch.
        model (np.ndarray): The model and what the loop does besides, of each micro-batch.
        first_pass (np.ndarray): The first pass of each micro-batch, 0 without one.
        rest (float): Gradients, optimizer step, hooks.
    """

    load: np.ndarray
    model: np.ndarray
    first_pass: np.ndarray
    rest: float

    @classmethod
    def of(cls, events: Events) -> 'MeasuredUpdate':
        """Add up the events of an update."""
        load, model, probe = (
            np.array([seconds for event, seconds in events if event == name])
            for name in ('loaded', 'model', 'probe')
        )
        number = len(model)
        names = [event for event, _ in events]
        first = names.index('model')
        before, after = (
            sum(seconds for event, seconds in part if event == 'after')
            for part in (events[:first], events[first:])
        )
        rest = sum(seconds for event, seconds in events if event == 'rest')
        if number == 1:
            # A loop of single micro-batches does everything in each of them.
            return cls(load, model + before + after + rest, np.zeros(1), 0.0)
        # What follows the last micro-batch is in the rest of the update.
        each = after / (number - 1)
        model, rest = model + each, max(0.0, rest - each)
        if len(probe):
            return cls(load, model, probe + before / number, rest)
        return cls(load, model, np.zeros(number), rest + before)
