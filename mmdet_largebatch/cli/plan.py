"""Print the plan of a training. Needs no GPU and, with --images, no data.

    python tools/plan.py CONFIG --gpus 64 --images 117266 --plot lr.png

If the work folder has earlier starts, it lists them, and the settings that a resume would change.
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from mmengine.config import Config

from ..errors import SettingError
from ..planning import Plan, as_json, as_text, draw_lr, make_plan, read_starts
from . import add_cfg_options, check_output, look_at_data, one_line_errors

PICTURES = ('.png', '.jpg', '.jpeg', '.pdf', '.svg', '.eps', '.webp')


def positive(text: str) -> int:
    """Parse a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value} is below 1')
    return value


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Print the plan of a training')
    parser.add_argument('config', help='config file')
    parser.add_argument('--gpus', type=positive, help="ranks; by default the recipe's own number")
    parser.add_argument(
        '--images',
        type=positive,
        help="training images after mmdet's filter (COCO train2017: 117266); by default the "
        'annotation file is read',
    )
    add_cfg_options(parser)
    parser.add_argument('--work-dir', help='work folder of earlier starts, as of train.py')
    parser.add_argument('--plot', type=Path, metavar='FILE.png', help='draw the LR schedule')
    parser.add_argument('--json', action='store_true', help='print one JSON object, nothing else')
    return parser.parse_args()


def plan_of(cfg: Config, args: argparse.Namespace) -> Plan:
    """Check the data, if they are read, and make the plan.

    Args:
        cfg (Config): The config.
        args (Namespace): The parsed ``gpus`` and ``images``.

    Returns:
        Plan: The plan.

    Raises:
        SettingError: If the training would be refused, or cannot be planned.
    """
    if args.images is None:
        try:
            look_at_data(cfg, ['train', 'val'])
        except SettingError as error:
            if 'no such' not in str(error):
                raise
            raise SettingError(f'{error} Or give the number of images by --images.') from error
    # Libraries print to stdout too, which is for the plan alone.
    with redirect_stdout(sys.stderr):
        return make_plan(cfg, args.gpus, args.images)


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Print the plan and draw the schedule."""
    if args.plot:
        check_output('--plot', args.plot, PICTURES)
    plan, starts = plan_of(cfg, args), read_starts(cfg.work_dir)
    if args.plot:
        draw_lr(plan, Path(args.config).stem).savefig(args.plot)
    print(as_json(plan, starts) if args.json else as_text(plan, starts))


if __name__ == '__main__':
    main()
