"""Train a detector from a config, with the arguments of mmdet's own ``train.py``."""

import argparse

from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from ..errors import SettingError
from ..utils.record import keep_record
from . import (
    add_common_arguments,
    begin_tool,
    check_checkpoint,
    check_work_dir,
    load_config,
    look_at_data,
    one_line_errors,
    use_gloo_without_gpu,
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


def main() -> None:
    """Build the runner that the config describes and train."""
    begin_tool()
    with one_line_errors(trains=True) as context:
        args = parse_args()
        if args.auto_scale_lr:
            raise SettingError(
                '--auto-scale-lr is not used: set default_hooks.lr.scale_rule (linear or sqrt) '
                'and default_hooks.lr.base_batch_size, the global batch that the LR is meant for.'
            )
        cfg = context['cfg'] = load_config(args)
        if args.amp:
            cfg.optim_wrapper.type = 'AmpOptimWrapper'
            cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
        if args.resume:
            cfg.resume = True
            cfg.load_from = None if args.resume == 'auto' else args.resume
        check_checkpoint('--resume' if args.resume else 'load_from', cfg.get('load_from'))
        look_at_data(cfg, ['train', 'val'])
        check_work_dir(cfg)
        use_gloo_without_gpu(cfg)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        keep_record(runner)
        runner.train()


if __name__ == '__main__':
    main()
