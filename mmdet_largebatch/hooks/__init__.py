"""Hooks that keep a long training safe, and one that looks into it."""

from .divergence_hook import DivergenceHook
from .preemption_hook import PreemptionHook
from .trust_ratio_hook import TrustRatioHook

__all__ = ['DivergenceHook', 'PreemptionHook', 'TrustRatioHook']
