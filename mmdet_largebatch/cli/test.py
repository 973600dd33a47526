"""Evaluate a checkpoint (COCO mAP), with the arguments of mmdet's own ``test.py``."""

import argparse
import os

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..errors import SettingError
from . import (
    WeightsCheckHook,
    add_common_arguments,
    begin_tool,
    check_checkpoint,
    check_folder,
    check_output,
    check_settings,
    check_work_dir,
    draw_on_every_rank,
    load_config,
    look_at_data,
    one_line_errors,
    use_gloo_without_gpu,
    use_test_time_augmentation,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder of logs and metrics')
    parser.add_argument('--out', help='write the predictions to this .pkl file')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--show-dir', help='draw the predictions to this folder, in that of the log where relative'
    )
    parser.add_argument('--wait-time', type=float, default=2, help='of --show, seconds a picture')
    parser.add_argument(
        '--tta', action='store_true', help='test-time augmentation; it merges boxes alone'
    )
    add_common_arguments(parser)
    return parser.parse_args()


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on the hook that draws.

    Args:
        cfg (Config): The config, changed in place.
        args (Namespace): The parsed ``show``, ``show_dir`` and ``wait_time``.

    Raises:
        SettingError: If there is no such hook, or its folder cannot be written.
    """
    if 'visualization' not in (cfg.get('default_hooks') or {}):
        raise SettingError(
            '--show and --show-dir draw by default_hooks.visualization, which the config '
            "does not have. Set it to dict(type='DetVisualizationHook')."
        )
    if args.show_dir and os.path.isabs(args.show_dir):
        check_folder('--show-dir', args.show_dir)
    trigger_visualization_hook(cfg, args)


def main() -> None:
    """Build the runner that the config describes and test."""
    begin_tool()
    with one_line_errors() as context:
        args = parse_args()
        cfg = context['cfg'] = load_config(args)
        check_settings(cfg, ['model', 'test_dataloader', 'test_evaluator', 'test_cfg'])
        check_checkpoint('checkpoint', args.checkpoint)
        look_at_data(cfg, ['test'])
        check_work_dir(cfg)
        cfg.load_from = args.checkpoint
        if args.out:
            check_output('--out', args.out, ('.pkl', '.pickle'))
        if args.show or args.show_dir:
            draw_predictions(cfg, args)
        if args.tta:
            use_test_time_augmentation(cfg)
        use_gloo_without_gpu(cfg)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        runner.register_hook(WeightsCheckHook())
        if args.show_dir:
            draw_on_every_rank(runner)
        if args.out:
            runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
        runner.test()


if __name__ == '__main__':
    main()
