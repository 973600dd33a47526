"""Hooks: checkpoints, LR schedule, preemption, divergence, records, trust ratios, noise scale."""

from .atomic_checkpoint_hook import AtomicCheckpointHook
from .divergence_hook import DivergenceHook
from .noise_scale_hook import NoiseScaleHook
from .preemption_hook import PreemptionHook
from .run_record_hook import RunRecordHook
from .trust_ratio_hook import TrustRatioHook
from .warmup_step_lr_hook import WarmupStepLRHook

__all__ = [
    'AtomicCheckpointHook',
    'DivergenceHook',
    'NoiseScaleHook',
    'PreemptionHook',
    'RunRecordHook',
    'TrustRatioHook',
    'WarmupStepLRHook',
]
