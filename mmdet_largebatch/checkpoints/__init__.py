"""Checkpoints that are whole or absent: how they are written, found and loaded."""

from .checkpoint_hook import AtomicCheckpointHook
from .finding import checkpoint_defect, newest_checkpoint
from .loading import load_from_local
from .unpickling import trust_checkpoints
from .whole_file import WholeFileBackend

__all__ = [
    'AtomicCheckpointHook',
    'WholeFileBackend',
    'checkpoint_defect',
    'load_from_local',
    'newest_checkpoint',
    'trust_checkpoints',
]
