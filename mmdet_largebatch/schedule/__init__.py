"""The learning rate as a pure function of the update, its scheduler, and the hook for configs."""

from .warmup_step_lr import WarmupStepLR, warmup_step_factor
from .warmup_step_lr_hook import WarmupStepLRHook

__all__ = ['WarmupStepLR', 'WarmupStepLRHook', 'warmup_step_factor']
