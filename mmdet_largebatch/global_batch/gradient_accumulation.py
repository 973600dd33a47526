"""One optimizer update out of several micro-batches."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..errors import SettingError
from ..utils.runner import loss_scale
from .micro_batch_gradients import MicroBatchGradients

TRAIN_STEP = 'train_cfg.type=GlobalBatchTrainLoop: the train_step of the model '


class GradientAccumulator:
    """Delay the optimizer step until all micro-batches of an update are computed.

    A model's ``train_step`` is given :attr:`stand_in`, an object of the wrapper's own class that
    shares its attributes. Gradients are scaled to their part of the global batch and synchronised
    in a rank's last micro-batch alone, unless :meth:`begin` asks for the gradient of each
    micro-batch. ``step`` and ``zero_grad`` are put off to :meth:`finish`. What the wrapper adds
    (mixed precision, loss scaling, clipping) happens once an update.

    Args:
        optim_wrapper (OptimWrapper): The wrapper that makes the updates.
        ranks (int): Number of ranks, over which DDP takes the mean of the gradients.
        micro_batches (int): Number of micro-batches of an update, over all ranks.
        share (int): Number of them that this rank computes.
        backward_context (Callable): Makes the context of each backward pass. Defaults to none.
    """

    def __init__(
        self,
        optim_wrapper: OptimWrapper,
        ranks: int,
        micro_batches: int,
        share: int,
        backward_context: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.optim_wrapper = optim_wrapper
        # DDP divides the sum over ranks by their number, whatever number of micro-batches each had.
        self.part = ranks / micro_batches
        self.share = share
        self.backward_context = backward_context
        self.stand_in = _stand_in(optim_wrapper, self)
        self.computing = self.probing = False
        optim_wrapper.optimizer.register_step_pre_hook(self._check_step)

    def begin(self, alone: MicroBatchGradients | None = None) -> None:
        """Begin an update.

        Args:
            alone (MicroBatchGradients, optional): Adds the gradients of this update's micro-batches
                one by one. None lets autograd add them and DDP synchronise them. Defaults to None.
        """
        self.alone = alone
        self.loss_scale = self.part if alone is None else 1.0
        self.asked = self.accumulated = 0
        self.step_kwargs: dict = {}
        self.zero_kwargs: dict = {}

    @contextmanager
    def micro_batch(
        self, last: bool, listen: Callable[[dict[str, Tensor]], None] | None = None
    ) -> Iterator[OptimWrapper]:
        """Context of a call of ``train_step``.

        Args:
            last (bool): Whether it computes the last micro-batch of this rank.
            listen (Callable, optional): Called with the gradient of the micro-batch, where it
                stands alone. Defaults to None.

        Yields:
            OptimWrapper: The stand-in to call it with.
        """
        self.synchronise, self.computing = last, True
        self.backwards = self.steps = 0
        try:
            yield self.stand_in
        finally:
            self.computing = False
        # A train_step may leave a step out, as where it finds the loss bad.
        self.asked += self.steps
        if self.alone is not None:
            self.alone.add(loss_scale(self.optim_wrapper), listen)

    @contextmanager
    def probe(self, with_gradients: bool = False) -> Iterator[OptimWrapper]:
        """Context of a call of ``train_step`` that adds no gradient.

        Args:
            with_gradients (bool): Whether autograd records it. Defaults to False.

        Yields:
            OptimWrapper: The stand-in to call it with, which does nothing.
        """
        self.synchronise, self.computing, self.probing = False, True, True
        params = [p for group in self.optim_wrapper.param_groups for p in group['params']]
        gradients = [p.grad for p in params]
        for p in params:
            p.grad = None
        try:
            with torch.set_grad_enabled(with_gradients):
                yield self.stand_in
        finally:
            self.computing = self.probing = False
            # A train_step may call loss.backward() itself.
            for p, gradient in zip(params, gradients, strict=True):
                p.grad = gradient

    def finish(self) -> None:
        """Update the parameters with the mean gradient of the global batch."""
        self.optim_wrapper.step(**self.step_kwargs)
        self.optim_wrapper.zero_grad(**self.zero_kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Context of a forward pass.

        Args:
            model (nn.Module): The model, wrapped by DDP or not.

        Yields:
            None.
        """
        synchronise = self.synchronise and self.alone is None
        no_sync = None if synchronise else getattr(model, 'no_sync', None)
        with nullcontext() if no_sync is None else no_sync():
            with self.optim_wrapper.optim_context(model):
                yield

    def should_sync(self) -> bool:
        """Return True in the last micro-batch of this rank."""
        return self.synchronise

    def backward(self, loss: Tensor, **kwargs: Any) -> Any:
        """Add the gradient of a micro-batch, scaled to its part of the update.

        Args:
            loss (Tensor): Its loss, 0-d.
            **kwargs: As for the wrapper.

        Returns:
            Any: What the wrapper returns.
        """
        if self.probing:
            return None
        if self.alone is not None and self.accumulated == 0:
            self.alone.set_aside()
        self.backwards += 1
        self.accumulated += 1
        # With a micro-batch a rank these are stock's own numbers.
        scaled = loss if self.loss_scale == 1 else loss * self.loss_scale
        with self.backward_context():
            return self.optim_wrapper.backward(scaled, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Record that a micro-batch requests the optimizer step.

        Args:
            *args: None may be given.
            **kwargs: For the wrapper's ``step``.

        Raises:
            SettingError: If the step cannot be put off.
        """
        if self.probing:
            return
        self.steps += 1
        if self.steps > 1:
            raise SettingError(
                f'{TRAIN_STEP}calls optim_wrapper.step or update_params {self.steps} times a '
                'micro-batch. Must be once: a step is made for the whole global batch.'
            )
        if args or kwargs.get('closure') is not None:
            raise SettingError(
                f'{TRAIN_STEP}gives optim_wrapper.step a closure. Must be none: the gradient of '
                'the global batch is not computed anew.'
            )
        if self.backwards == 0 and self.loss_scale != 1:
            raise SettingError(
                f'{TRAIN_STEP}calls optim_wrapper.step without optim_wrapper.backward. Must call '
                'optim_wrapper.backward(loss), not loss.backward(): it scales the loss to its '
                'part of the global batch.'
            )
        self.step_kwargs = kwargs

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear old gradients before the first backward; delay later calls to the end.

        Args:
            **kwargs: For the wrapper's ``zero_grad``.

        Raises:
            SettingError: If gradients of other micro-batches would be lost.
        """
        if self.probing:
            return
        if self.steps:
            self.zero_kwargs = kwargs
        elif self.share == 1 or self.accumulated == 0:
            self.optim_wrapper.zero_grad(**kwargs)
        elif self.backwards:
            raise SettingError(
                f'{TRAIN_STEP}calls optim_wrapper.zero_grad between backward and step. Must be '
                'before or after both: the gradients hold those of other micro-batches.'
            )

    def _check_step(self, *_: Any) -> None:
        if self.computing:
            raise SettingError(
                f'{TRAIN_STEP}calls optim_wrapper.optimizer.step. Must call optim_wrapper.step or '
                'update_params: a step is made for the whole global batch.'
            )


def _stand_in(optim_wrapper: OptimWrapper, accumulation: GradientAccumulator) -> OptimWrapper:
    """Make an object of the wrapper's class with its attributes and the accumulation's methods."""
    base: Any = type(optim_wrapper)
    # Properties: MMEngine's schedulers set `step` as an attribute, and the attributes are shared.
    names = ('optim_context', 'should_sync', 'backward', 'step', 'zero_grad')
    methods = {name: property(partial(_method, accumulation, name)) for name in names}
    stand_in = object.__new__(type(base)(base.__name__, (base,), methods))
    stand_in.__dict__ = optim_wrapper.__dict__
    return stand_in


def _method(accumulation: GradientAccumulator, name: str, _: OptimWrapper) -> Callable:
    return getattr(accumulation, name)
