"""Checkpoints that are whole or absent: how they are written, read back and found."""

from .checkpoint_hook import AtomicCheckpointHook
from .finding import checkpoint_defect, newest_checkpoint
from .whole_file import WholeFileBackend

__all__ = ['AtomicCheckpointHook', 'WholeFileBackend', 'checkpoint_defect', 'newest_checkpoint']
