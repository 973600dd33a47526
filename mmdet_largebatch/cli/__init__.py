"""Shared code of the command-line tools."""

from .data import look_at_data
from .launch import (
    ConfigOptions,
    add_cfg_options,
    add_common_arguments,
    begin_tool,
    build_runner,
    check_settings,
    load_config,
)
from .mistakes import one_line_errors
from .outputs import check_checkpoint, check_folder, check_output, check_work_dir
from .processes import check_processes, use_gloo_without_gpu
from .testing import draw_on_every_rank, dump_predictions, use_test_time_augmentation
from .weights import WeightsCheckHook, check_weights

__all__ = [
    'ConfigOptions',
    'WeightsCheckHook',
    'add_cfg_options',
    'add_common_arguments',
    'begin_tool',
    'build_runner',
    'check_checkpoint',
    'check_folder',
    'check_output',
    'check_processes',
    'check_settings',
    'check_weights',
    'check_work_dir',
    'draw_on_every_rank',
    'dump_predictions',
    'load_config',
    'look_at_data',
    'one_line_errors',
    'use_gloo_without_gpu',
    'use_test_time_augmentation',
]
