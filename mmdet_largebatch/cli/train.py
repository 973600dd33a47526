"""Train a detector from a config, with the arguments of mmdet's own ``train.py``."""

import argparse

from mmengine.config import Config

from ..errors import SettingError
from ..utils.record import keep_record
from . import (
    add_common_arguments,
    begin_tool,
    build_runner,
    check_checkpoint,
    check_work_dir,
    look_at_data,
    one_line_errors,
)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder of logs and checkpoints')
    parser.add_argument('--amp', action='store_true', help='mixed precision, on a GPU')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='refused; see default_hooks.lr.scale_rule'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint; without a path, from the newest in the work folder',
    )
    add_common_arguments(parser)
    return parser.parse_args()


@one_line_errors(parse_args, trains=True)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Build the runner of the config and train."""
    begin_tool()
    if args.auto_scale_lr:
        raise SettingError(
            '--auto-scale-lr is not used: set default_hooks.lr.scale_rule (linear or sqrt) '
            'and default_hooks.lr.base_batch_size, the global batch that the LR is meant for.'
        )
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    check_checkpoint('--resume' if args.resume else 'load_from', cfg.get('load_from'))
    look_at_data(cfg, ['train', 'val'])
    check_work_dir(cfg)
    runner = build_runner(cfg)
    keep_record(runner)
    runner.train()


if __name__ == '__main__':
    main()
