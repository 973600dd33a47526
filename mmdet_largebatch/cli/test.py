"""Evaluate a checkpoint (COCO mAP), with the arguments of mmdet's own ``test.py``."""

import argparse
import os

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmengine.config import Config

from ..errors import SettingError
from . import (
    WeightsCheckHook,
    add_common_arguments,
    begin_tool,
    build_runner,
    check_checkpoint,
    check_folder,
    check_output,
    check_processes,
    check_settings,
    check_work_dir,
    draw_on_every_rank,
    dump_predictions,
    look_at_data,
    one_line_errors,
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
        '--show-dir',
        help='draw the predictions to this folder; a relative path is in the log folder',
    )
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a picture with --show')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation, on boxes only')
    add_common_arguments(parser)
    return parser.parse_args()


def draw_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Turn on ``default_hooks.visualization``.

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


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Build the runner of the config and test."""
    begin_tool()
    check_processes(cfg)
    check_settings(cfg, ['model', 'test_dataloader', 'test_evaluator', 'test_cfg'])
    # The config that a training dumped may have resume=True.
    cfg.load_from, cfg.resume = check_checkpoint('checkpoint', args.checkpoint), False
    look_at_data(cfg, ['test'])
    check_work_dir(cfg)
    if args.out:
        check_output('--out', args.out, ('.pkl', '.pickle'))
    if args.show or args.show_dir:
        draw_predictions(cfg, args)
    if args.tta:
        use_test_time_augmentation(cfg)
    runner = build_runner(cfg)
    runner.register_hook(WeightsCheckHook())
    if args.show_dir:
        draw_on_every_rank(runner)
    if args.out:
        dump_predictions(runner.test_evaluator, args.out)
    runner.test()


if __name__ == '__main__':
    main()
