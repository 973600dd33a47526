"""What the command-line tools share."""

from .data import look_at_data
from .launch import add_common_arguments, load_config, use_gloo_without_gpu
from .mistakes import check_checkpoint, check_work_dir, one_line_errors

__all__ = [
    'add_common_arguments',
    'check_checkpoint',
    'check_work_dir',
    'load_config',
    'look_at_data',
    'one_line_errors',
    'use_gloo_without_gpu',
]
