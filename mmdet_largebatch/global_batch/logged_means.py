"""Means over the global batch of the values that a model logs."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.dist import all_reduce
from torch import Tensor

from ..errors import SettingError
from .gradient_accumulation import TRAIN_STEP


class LoggedMeans:
    """Average each logged value over the micro-batches that have it.

    A value may be absent in some micro-batches, or on some ranks. The ranks agree on the names
    once, and again where a rank meets a new one. Otherwise one all-reduce is made an update.
    The values are added in the order of the micro-batches, whatever ranks they are from.

    Args:
        ranks (int): Number of ranks.
        micro_batches (int): Number of micro-batches of an update, over all ranks.
        rank (int): This rank, which computes every ``ranks``-th micro-batch. Defaults to 0.
    """

    def __init__(self, ranks: int, micro_batches: int, rank: int = 0) -> None:
        self.ranks = ranks
        self.micro_batches = micro_batches
        self.rank = rank
        self._dtypes: dict[str, torch.dtype] = {}

    @staticmethod
    def detached(output: Any) -> dict[str, Any] | None:
        """Detach the logged values of a micro-batch from its graph.

        Args:
            output (dict[str, Any], optional): What ``train_step`` returned.

        Returns:
            dict[str, Any], optional: The values by name, numbers or tensors of one element.

        Raises:
            SettingError: If a value is not a number.
        """
        if output is None:
            return None
        if not isinstance(output, dict):
            raise SettingError(
                f'{TRAIN_STEP}returns {type(output).__name__}. Must be a dict of numbers to log, '
                'or None.'
            )
        for name, value in output.items():
            size = np.size(value) if isinstance(value, np.ndarray) else 1
            if isinstance(value, Tensor):
                size = value.numel()
            if size != 1 or not isinstance(value, (int, float, np.number, np.ndarray, Tensor)):
                what = type(value).__name__ + (f' of {size} elements' if size != 1 else '')
                raise SettingError(
                    f'{TRAIN_STEP}returns {name}, a {what}. Must be a number or a tensor of one '
                    'element.'
                )
        return {
            name: value.detach() if isinstance(value, Tensor) else value
            for name, value in output.items()
        }

    def __call__(
        self, outputs: list[dict[str, Any] | None], asked: int
    ) -> tuple[dict[str, Any] | None, int]:
        """Take the means. With more than one rank this communicates.

        Args:
            outputs (list[dict[str, Any], optional]): For each micro-batch of this rank the values
                by name, numbers or tensors of one element; None for no values.
            asked (int): Number of micro-batches of this rank that ask for a step.

        Returns:
            tuple[dict[str, Any] or None, int]: The means by name, None if no micro-batch of this
            rank has values and no other rank has any; and the number of micro-batches that ask for
            a step, over all ranks. Both are the same on every rank.
        """
        if self.micro_batches == 1:
            return outputs[0], asked
        rows = [output or {} for output in outputs]
        counts = self._counts(rows)
        new = len(counts) > len(self._dtypes)
        if self.ranks == 1:
            if new:
                self._learn([_dtypes(rows)])
            sums = _added(self._values(rows))
            counted = [counts[name] for name in self._dtypes]
        else:
            sums, counted, asked, anyone_new = self._over_ranks(rows, asked, new)
            if anyone_new:
                found: list[dict[str, torch.dtype]] = [{}] * self.ranks
                dist.all_gather_object(found, _dtypes(rows))
                self._learn(found)
                sums, counted, _, _ = self._over_ranks(rows, 0, False)
        means = {
            name: (sums[index] / counted[index]).to(dtype)
            for index, (name, dtype) in enumerate(self._dtypes.items())
            if counted[index]
        }
        nothing = not means and all(output is None for output in outputs)
        return None if nothing else means, asked

    def _counts(self, rows: list[dict[str, Any]]) -> dict[str, int]:
        counts = dict.fromkeys(self._dtypes, 0)
        for row in rows:
            for name in row:
                counts[name] = counts.get(name, 0) + 1
        return counts

    def _learn(self, found: list[dict[str, torch.dtype]]) -> None:
        for dtypes in found:
            for name, dtype in dtypes.items():
                self._dtypes.setdefault(name, dtype)

    def _values(self, rows: list[dict[str, Any]]) -> Tensor:
        """Return a row of values for each micro-batch of the update, in float64; else 0."""
        tensors = [v for row in rows for v in row.values() if isinstance(v, Tensor)]
        device = tensors[0].device if tensors else torch.device('cpu')
        zero = torch.zeros((), dtype=torch.float64, device=device)
        every = zero.new_zeros(self.micro_batches, len(self._dtypes))
        if self._dtypes:
            for number, row in enumerate(rows):
                values = [
                    _tensor(row[name], device) if name in row else zero for name in self._dtypes
                ]
                every[self.rank + number * self.ranks] = torch.stack(values)
        return every

    def _over_ranks(
        self, rows: list[dict[str, Any]], asked: int, new: bool
    ) -> tuple[Tensor, list[int], int, bool]:
        values, counts = self._values(rows), self._counts(rows)
        beside = [*(counts[name] for name in self._dtypes), asked, int(new)]
        every = torch.cat([values.flatten(), values.new_tensor(beside)])
        # The other ranks have zeros where this one has values: no sum is rounded.
        all_reduce(every)
        *counted, asked, anyone_new = map(int, every[values.numel() :].tolist())
        return _added(every[: values.numel()].view_as(values)), counted, asked, anyone_new > 0


def _dtypes(rows: list[dict[str, Any]]) -> dict[str, torch.dtype]:
    found: dict[str, torch.dtype] = {}
    for row in rows:
        for name, value in row.items():
            floating = isinstance(value, Tensor) and value.is_floating_point()
            found.setdefault(name, value.dtype if floating else torch.float64)
    return found


def _added(rows: Tensor) -> Tensor:
    total = torch.zeros_like(rows[0])
    for row in rows:
        total += row
    return total


def _tensor(value: Any, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.reshape(()).to(device)
    return torch.tensor(float(value), dtype=torch.float64, device=device)
