"""Write, find, compare and load checkpoints."""

from .atomic_file import AtomicFileBackend
from .finding import checkpoint_defect, newest_checkpoint
from .initial_weights import check_initial_weights
from .loading import load_from_local
from .unpickling import trust_checkpoints

__all__ = [
    'AtomicFileBackend',
    'check_initial_weights',
    'checkpoint_defect',
    'load_from_local',
    'newest_checkpoint',
    'trust_checkpoints',
]
