"""What the command-line tools share."""

from .launch import add_common_arguments, begin_tool, load_config, use_gloo_without_gpu
from .mistakes import check_annotations, check_checkpoint, check_work_dir, one_line_errors

__all__ = [
    'add_common_arguments',
    'begin_tool',
    'check_annotations',
    'check_checkpoint',
    'check_work_dir',
    'load_config',
    'one_line_errors',
    'use_gloo_without_gpu',
]
