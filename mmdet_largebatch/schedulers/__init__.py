"""The learning rate as a pure function of the update, and its scheduler."""

from .warmup_step_lr import WarmupStepLR, warmup_step_factor

__all__ = ['WarmupStepLR', 'warmup_step_factor']
