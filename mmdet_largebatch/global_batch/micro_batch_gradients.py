"""The gradient of an update as a sum of its micro-batches' gradients, each computed alone."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..checks import invalid
from ..utils.runner import plain_model
from .exact_sum import UNIT, limit, sum_over_ranks

NOT_FINITE = 'is not finite'


class MicroBatchGradients:
    """Adds the gradients of micro-batches, which DDP does not synchronise, and takes their mean.

    A parameter that no micro-batch uses, on any rank, has no gradient. Parameters that a hook
    unfreezes between updates are included. Each gradient is divided by the loss scale before it
    is added; the mean is multiplied by it.

    Args:
        model (nn.Module): The model, wrapped by DDP or not.
        ranks (int): Number of ranks.
        micro_batches (int): Number of micro-batches of an update, over all ranks.
        exact (bool): Whether to add integers, so that the sum does not depend on its order.
    """

    def __init__(self, model: nn.Module, ranks: int, micro_batches: int, exact: bool) -> None:
        self.ranks = ranks
        self.micro_batches = micro_batches
        self.exact = exact
        self._all = list(plain_model(model).named_parameters())
        self._names: list[str] = []
        self.scale = 1.0

    def begin(self) -> None:
        """Begin an update."""
        trained = [(name, p) for name, p in self._all if p.requires_grad]
        if [name for name, _ in trained] != self._names:
            self._lay_out(trained)
        self._earlier: dict[int, Tensor] = {}
        self._used = [0] * len(trained)
        self._flags.zero_()

    def _lay_out(self, trained: list[tuple[str, nn.Parameter]]) -> None:
        """Allocate flat buffers with a view for each parameter, and three numbers for each."""
        self._names = [name for name, _ in trained]
        self._params = [p for _, p in trained]
        count, device = len(trained), self._params[0].device
        double = any(p.dtype is torch.float64 for p in self._params)
        dtype = torch.float64 if double else torch.float32
        elements = sum(p.numel() for p in self._params)
        size = -(-(elements + 3 * count) // self.ranks) * self.ranks
        self._means = torch.zeros(size, dtype=dtype, device=device)
        self._sums = self._means
        if self.exact:
            self._sums = torch.zeros(size, dtype=torch.int64, device=device)
        self._elements = elements
        self._mean_views, self._sum_views = (
            _views(flat, self._params) for flat in (self._means, self._sums)
        )
        self._flags = torch.zeros((2, count), dtype=self._sums.dtype, device=device)

    def set_aside(self) -> None:
        """Put away gradients from before the update, which a step left out; finish adds them."""
        for index, p in enumerate(self._params):
            if p.grad is not None:
                # A copy: it may be a view of the buffer.
                self._earlier[index], p.grad = p.grad.clone(), None

    @torch.no_grad()
    def add(self, scale: float, listen: Callable[[dict[str, Tensor]], None] | None = None) -> None:
        """Add the gradient of a micro-batch, and take it off the parameters.

        Args:
            scale (float): The loss scale, the same in every micro-batch of an update.
            listen (Callable, optional): Called with the gradient, unscaled, of each parameter that
                has one, by its name.

        Raises:
            SettingError: If a gradient is sparse.
        """
        self.scale = scale
        used = [index for index, p in enumerate(self._params) if p.grad is not None]
        gradients = [self._taken(index) for index in used]
        if not gradients:
            return
        if scale != 1:
            torch._foreach_mul_(gradients, 1 / scale)
        if listen is not None:
            listen({self._names[index]: g for index, g in zip(used, gradients, strict=True)})
        if self.exact:
            self._check_range(used, gradients)
            torch._foreach_mul_(gradients, UNIT)
            torch._foreach_round_(gradients)
        for index, gradient in zip(used, gradients, strict=True):
            if self._used[index]:
                self._sum_views[index].add_(gradient.to(self._sums.dtype))
            else:
                self._sum_views[index].copy_(gradient)
            self._used[index] += 1

    def _taken(self, index: int) -> Tensor:
        p = self._params[index]
        gradient, p.grad = p.grad, None
        assert gradient is not None
        if gradient.layout is not torch.strided:
            wanted = f'False, or dense gradients: that of {self._names[index]} is sparse'
            raise invalid('train_cfg.exact_sum', self.exact, wanted)
        half = gradient.dtype in (torch.float16, torch.bfloat16)
        return gradient.float() if half else gradient

    def _check_range(self, used: list[int], gradients: list[Tensor]) -> None:
        """Note on the device whose gradient is too large to be added, and whose is not finite."""
        norms = torch.stack([norm.to(self._means) for norm in torch._foreach_norm(gradients)])
        self._flags[0, used] += norms.isfinite().logical_not_()
        self._flags[1, used] += norms > limit(self.micro_batches)

    @torch.no_grad()
    def finish(self) -> dict[str, str]:
        """Give the parameters their mean gradient, the same on every rank.

        Returns:
            dict[str, str]: Names of parameters whose gradient cannot be added, and why. They are
            given an infinite gradient.
        """
        for view, count in zip(self._sum_views, self._used, strict=True):
            if not count:
                view.zero_()
        rest = self._sums[self._elements :]
        used = torch.tensor(self._used, dtype=rest.dtype).to(rest.device)
        numbers = torch.cat([used, self._flags.flatten()])
        rest[: len(numbers)] = numbers
        self._over_ranks()
        facts = self._means[self._elements :][: len(numbers)].view(3, -1).tolist()
        self._means[: self._elements].mul_(
            self.scale / (self.micro_batches * (UNIT if self.exact else 1))
        )
        bad: dict[str, str] = {}
        for index, (count, not_finite, outside) in enumerate(zip(*facts, strict=True)):
            gradient = self._mean_views[index]
            if not_finite or outside:
                gradient.fill_(torch.inf)
                beyond = f'has a norm above {limit(self.micro_batches):g}'
                bad[self._names[index]] = NOT_FINITE if not_finite else beyond
            if index in self._earlier:
                gradient.add_(self._earlier[index])
            elif not count:
                continue
            p = self._params[index]
            p.grad = gradient.to(p.device, p.dtype)
        return bad

    def _over_ranks(self) -> None:
        if self.exact:
            sum_over_ranks(self._sums, self._means)
        elif self.ranks > 1:
            dist.all_reduce(self._means)


def _views(flat: Tensor, params: list[nn.Parameter]) -> list[Tensor]:
    """Return a part of the buffer for each parameter, in its shape and memory layout."""
    views, begin = [], 0
    for p in params:
        strides = torch.empty_like(p, device='meta').stride()
        views.append(flat.as_strided(p.shape, strides, begin))
        begin += p.numel()
    return views
