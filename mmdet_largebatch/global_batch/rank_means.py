"""mmdet's ``reduce_mean``, as with one rank for each micro-batch."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from mmdet.utils import dist_utils
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import SettingError
from .collectives import calls_reduce_mean

# Both passes compute the same numbers. A larger difference is no rounding.
RTOL = 1e-3


class RankMeansError(SettingError):
    """Calls of ``reduce_mean`` that cannot be given a mean. One rank alone may find them."""

    alone = True


class _Call(NamedTuple):
    """A call of ``reduce_mean``: its argument over the number of micro-batches, and its place."""

    value: Tensor
    place: tuple
    head: str


class RankMeans:
    """Give each call of ``reduce_mean`` the mean over all micro-batches of the update.

    Many heads normalise their losses by a mean over ranks. Value and gradient are those of stock
    MMDetection with one rank for each micro-batch, on any number of ranks. A first pass over the
    micro-batches of a rank, without gradients, records the arguments. One all-reduce shares them.
    In the second pass each call returns its mean.

    With one micro-batch a rank there is one pass, and MMDetection's own all-reduce.

    Args:
        model (nn.Module): The model, wrapped by DDP or not.
        ranks (int): Number of ranks.
        micro_batches (int): Number of micro-batches of an update, over all ranks.
        exact (bool): Also with one micro-batch a rank, sum in the order of the micro-batches.
    """

    def __init__(
        self, model: nn.Module, ranks: int, micro_batches: int, exact: bool = False
    ) -> None:
        self.ranks = ranks
        self.micro_batches = micro_batches
        #: Whether an update needs the first pass. All do until one is known.
        self.probing = micro_batches > ranks
        self.intercepts = self.probing or (exact and micro_batches > 1)
        self._in_code = self.probing and calls_reduce_mean(model)
        self._width = 0
        self._first = True
        self._warned = False
        self._recording: list[_Call] | None = None
        self._recomputed: list[_Call] | None = None
        self._calls: dict[int, list[_Call]] = {}
        self._differences: list[tuple[Tensor, str]] = []

    @contextmanager
    def record(self, number: int) -> Iterator[None]:
        """Record the calls of a micro-batch; each returns its argument.

        Args:
            number (int): Index of the micro-batch in the update.

        Yields:
            None.
        """
        self._recording = self._calls[number] = []
        try:
            with self._instead():
                yield
        finally:
            self._recording = None

    def exchange(self) -> None:
        """Take the means of the recorded calls. With more than one rank this communicates.

        Raises:
            RankMeansError: If some micro-batches make more calls than others.
        """
        table, sizes = self._table(
            {
                number: torch.cat([call.value.flatten() for call in calls])
                for number, calls in self._calls.items()
                if calls
            }
        )
        if len(set(sizes)) > 1:
            heads = {call.head: None for calls in self._calls.values() for call in calls}
            raise RankMeansError(
                f'model: {", ".join(heads) or "a module"} hands mmdet.utils.reduce_mean '
                f'{min(sizes)} numbers in one micro-batch of an update and {max(sizes)} in '
                'another. Must be as many in each: MMDetection would wait without end.'
            )
        self._means = table.sum(0)
        if self._first and not self._in_code:
            # A model without such calls pays for the first pass once.
            self.probing = sizes[0] > 0

    @contextmanager
    def micro_batch(self, number: int) -> Iterator[None]:
        """Context of the pass with gradients.

        Args:
            number (int): Index of the micro-batch in the update.

        Yields:
            None.

        Raises:
            RankMeansError: If it makes fewer calls than in the first pass.
        """
        if not self.intercepts:
            yield
            return
        self._number, self._made, self._offset = number, 0, 0
        with self._instead():
            yield
        calls = self._calls.get(number, [])
        if self._made < len(calls):
            raise _other_calls(calls[self._made].head, f'{self._made} calls', len(calls))

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Context of a backward pass: activation checkpointing repeats calls there."""
        self._recomputed = []
        try:
            yield
        finally:
            self._recomputed = None

    def finish(self) -> None:
        """End an update.

        Raises:
            RankMeansError: If in the first update an argument depended on earlier means.
        """
        differences, self._differences = self._differences, []
        self._calls = {}
        if differences and not self._warned:
            flags = torch.stack([flag for flag, _ in differences]).tolist()
            heads = {head: None for flag, (_, head) in zip(flags, differences, strict=True) if flag}
            if heads:
                message = (
                    f'model: what {", ".join(heads)} hands to mmdet.utils.reduce_mean depends on '
                    'the means of earlier calls, or on state that other micro-batches change. Must '
                    'depend on its own micro-batch alone'
                )
                if self._first:
                    raise RankMeansError(f'{message}, or run on one rank for each micro-batch.')
                print_log(f'{message}; taken as in the first pass.', 'current', 30)
                self._warned = True
        self._first = False

    @contextmanager
    def _instead(self) -> Iterator[None]:
        """Replace ``torch.distributed`` where ``reduce_mean`` looks it up."""
        before = dist_utils.dist
        dist_utils.dist = _Distributed(self)
        try:
            yield
        finally:
            dist_utils.dist = before

    def reduce(self, tensor: Tensor, frame: FrameType) -> None:
        """Stand in for the all-reduce in ``reduce_mean``, which autograd does not see either.

        Args:
            tensor (Tensor): The argument of ``reduce_mean`` over the number of micro-batches. Its
                value becomes the mean.
            frame (FrameType): The caller of ``reduce_mean``.
        """
        value = tensor.detach().to(torch.float64, copy=True)
        call = _Call(value, (frame.f_code, frame.f_lineno), _head(frame))
        if self._recording is not None:
            self._recording.append(call)
            mean = call.value * self.micro_batches
        elif self.micro_batches == self.ranks:
            table, _ = self._table({self._number: call.value.flatten()})
            mean = table.sum(0)
        elif self._recomputed is not None:
            mean = self._recompute(call, self._recomputed)
        else:
            mean = self._next(call)
        tensor.data.copy_(mean.reshape(tensor.shape))

    def _next(self, call: _Call) -> Tensor:
        calls = self._calls.get(self._number, [])
        if self._made == len(calls):
            raise _other_calls(call.head, f'call {self._made + 1}', len(calls))
        recorded = calls[self._made]
        if recorded.value.shape != call.value.shape:
            raise _other_calls(call.head, 'a call of another shape', len(calls))
        near = torch.isclose(call.value, recorded.value, rtol=RTOL, atol=1e-6, equal_nan=True)
        self._differences.append((~near.all(), call.head))
        self._made += 1
        mean = self._means[self._offset : self._offset + call.value.numel()]
        self._offset += call.value.numel()
        return mean

    def _recompute(self, call: _Call, done: list[_Call]) -> Tensor:
        """Find the call of the forward pass by place and argument, each once in a backward pass."""
        offset = 0
        for recorded in self._calls.get(self._number, []):
            size = recorded.value.numel()
            if (
                recorded.place == call.place
                and recorded.value.shape == call.value.shape
                and not any(recorded is other for other in done)
                and torch.allclose(call.value, recorded.value, RTOL, 1e-6, equal_nan=True)
            ):
                done.append(recorded)
                return self._means[offset : offset + size]
            offset += size
        raise _other_calls(call.head, 'another call', len(self._calls.get(self._number, [])))

    def _table(self, rows: dict[int, Tensor]) -> tuple[Tensor, list[int]]:
        """Collect a row of numbers from each micro-batch, over all ranks.

        A sum of its rows has the same order on any number of ranks.
        """
        device = next((row.device for row in rows.values()), torch.device('cpu'))
        while True:
            table = torch.zeros(
                self.micro_batches, 1 + self._width, dtype=torch.float64, device=device
            )
            for number, row in rows.items():
                kept = row[: self._width]
                table[number, 0] = len(row)
                table[number, 1 : 1 + len(kept)] = kept
            if self.ranks > 1:
                all_reduce(table)
            sizes = [int(size) for size in table[:, 0].tolist()]
            if max(sizes) <= self._width:
                return table[:, 1 : 1 + max(sizes)], sizes
            self._width = max(sizes)


class _Distributed:
    """``torch.distributed`` as ``reduce_mean`` sees it: a rank for each micro-batch."""

    def __init__(self, means: RankMeans) -> None:
        self._means = means

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self, group: Any = None) -> int:
        return self._means.micro_batches

    def all_reduce(self, tensor: Tensor, op: Any = None) -> None:
        # The caller of this method is reduce_mean.
        self._means.reduce(tensor, sys._getframe(2))

    def __getattr__(self, name: str) -> Any:
        return getattr(dist, name)


def _head(frame: FrameType | None) -> str:
    """Name the class of the module whose method the frame is in."""
    while frame is not None:
        module = frame.f_locals.get('self')
        if isinstance(module, nn.Module):
            return type(module).__name__
        frame = frame.f_back
    return 'a module'


def _other_calls(head: str, made: str, before: int) -> RankMeansError:
    return RankMeansError(
        f'model: {head} makes {made} of mmdet.utils.reduce_mean in a micro-batch that made '
        f'{before} when it was computed without gradients. Must be the same calls each time.'
    )
