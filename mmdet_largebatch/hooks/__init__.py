"""Hooks for checkpoints, the LR schedule, preemption, divergence, records and trust ratios."""

from .atomic_checkpoint_hook import AtomicCheckpointHook
from .divergence_hook import DivergenceHook
from .preemption_hook import PreemptionHook
from .run_record_hook import RunRecordHook
from .trust_ratio_hook import TrustRatioHook
from .warmup_step_lr_hook import WarmupStepLRHook

__all__ = [
    'AtomicCheckpointHook',
    'DivergenceHook',
    'PreemptionHook',
    'RunRecordHook',
    'TrustRatioHook',
    'WarmupStepLRHook',
]
