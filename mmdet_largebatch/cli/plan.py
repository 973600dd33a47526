"""Print what a training will be, before it is started. Needs no GPU and, with --images, no data.

python tools/plan.py CONFIG --gpus 64 --images 117266 --plot lr.png
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from mmengine.config import Config, DictAction

from ..errors import SettingError
from ..planning import Plan, as_json, as_text, draw_lr, make_plan
from . import look_at_data, one_line_errors


def positive(text: str) -> int:
    """A command-line value that must be a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value} is below 1')
    return value


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Print what a training will be')
    parser.add_argument('config', help='config file')
    parser.add_argument('--gpus', type=positive, help="ranks; by default the recipe's own number")
    parser.add_argument(
        '--images',
        type=positive,
        help="images to train on after mmdet's filter (COCO train2017: 117266); by default the "
        'annotation file is read',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='as of train.py'
    )
    parser.add_argument('--plot', type=Path, metavar='FILE.png', help='draw the LR schedule')
    parser.add_argument('--json', action='store_true', help='print one JSON object, nothing else')
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    return parser.parse_args()


def plan_of(cfg: Config, args: argparse.Namespace) -> Plan:
    """Make the plan.

    Args:
        cfg (Config): The config.
        args (Namespace): The parsed ``gpus`` and ``images``.

    Returns:
        Plan: The plan.

    Raises:
        SettingError: If it cannot be made.
    """
    if args.images is None:
        try:
            look_at_data(cfg, ['train', 'val'])
        except SettingError as error:
            if 'no such' not in str(error):
                raise
            raise SettingError(f'{error} Or give the number of images by --images.') from error
    # Libraries print to where the plan alone belongs.
    with redirect_stdout(sys.stderr):
        return make_plan(cfg, args.gpus, args.images)


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Print the plan and draw the schedule."""
    plan = plan_of(cfg, args)
    if args.plot:
        try:
            args.plot.parent.mkdir(parents=True, exist_ok=True)
            draw_lr(plan, Path(args.config).stem).savefig(args.plot)
        except (OSError, ValueError) as error:
            raise SettingError(f'--plot {args.plot}: cannot be written ({error}).') from error
    print(as_json(plan) if args.json else as_text(plan))


if __name__ == '__main__':
    main()
