"""Train a detector from a config, with the arguments of mmdet's own ``train.py``."""

import argparse

from mmengine.config import Config

from ..checkpoints import check_initial_weights
from ..checkpoints.first_start import first_start, is_begun, set_resume_from
from ..checks import invalid
from ..hooks.first_start_hook import FirstStartHook
from ..utils.record import keep_record
from . import (
    add_common_arguments,
    begin_tool,
    build_runner,
    check_checkpoint,
    check_processes,
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
        '--auto-scale-lr',
        action='store_true',
        help='scale the LR from auto_scale_lr.base_batch_size to the global batch',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint; without a path, from the newest in the work folder, if '
        'there is one',
    )
    add_common_arguments(parser)
    return parser.parse_args()


def set_start(cfg: Config, resume: str | None) -> None:
    """Set what the training begins from.

    Args:
        cfg (Config): The config, changed in place.
        resume (str, optional): The parsed ``--resume``.

    Raises:
        SettingError: If there is no such file.
    """
    if resume is not None:
        set_resume_from(cfg, resume)
    name, first = 'load_from' if resume in (None, 'auto') else '--resume', first_start(cfg)
    if cfg.get('load_from') is not None or first.load_from is None:
        cfg.load_from = check_checkpoint(name, cfg.get('load_from'))
    elif not is_begun(cfg):
        cfg.first_start.load_from = check_checkpoint(name, first.load_from)


@one_line_errors(parse_args, trains=True)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Build the runner of the config and train."""
    begin_tool()
    check_processes(cfg)
    if args.auto_scale_lr:
        stock = cfg.get('auto_scale_lr')
        if not isinstance(stock, dict) or stock.get('base_batch_size') is None:
            wanted = 'dict(base_batch_size=N), the batch of the LR, with --auto-scale-lr'
            raise invalid('auto_scale_lr', stock, wanted)
        stock['enable'] = True
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    set_start(cfg, args.resume)
    check_initial_weights(cfg)
    look_at_data(cfg, ['train', 'val'])
    check_work_dir(cfg)
    runner = build_runner(cfg)
    keep_record(runner)
    if 'first_start' in cfg:
        runner.register_hook(FirstStartHook())
    runner.train()


if __name__ == '__main__':
    main()
