"""Hooks that keep a long training safe."""

from .divergence_hook import DivergenceHook
from .preemption_hook import PreemptionHook

__all__ = ['DivergenceHook', 'PreemptionHook']
