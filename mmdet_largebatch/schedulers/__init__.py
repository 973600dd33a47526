"""The learning rate as a pure function of the update, and its scheduler."""

from .scaling import ScaleRule, scale_factor, scale_rule_of
from .warmup_step_lr import WarmupStepLR, warmup_step_factor

__all__ = ['ScaleRule', 'WarmupStepLR', 'scale_factor', 'scale_rule_of', 'warmup_step_factor']
