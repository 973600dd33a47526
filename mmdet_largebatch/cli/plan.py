"""Print the plan of a training. Needs no GPU and, with --images, no data.

    python tools/plan.py CONFIG --gpus 64 --images 117266 --plot lr.png

If the work folder has earlier starts, it lists them, and the settings that a resume would change.

With a source of times, print the hours of the training on several numbers of GPUs.

    python tools/plan.py CONFIG --gpus 1 8 16 64 --measure
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path

from mmengine.config import Config

from ..errors import SettingError
from ..planning import (
    as_json,
    as_text,
    draw_hours,
    draw_lr,
    hours_as_json,
    hours_as_text,
    make_plan,
    read_starts,
)
from . import add_cfg_options, check_output, look_at_data, one_line_errors
from .hours import add_hours_arguments, check_hours_arguments, hours_of

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
    parser.add_argument(
        '--gpus',
        type=positive,
        nargs='+',
        metavar='N',
        help="ranks; by default the recipe's own number; several with a source of times",
    )
    parser.add_argument(
        '--images',
        type=positive,
        help="training images after mmdet's filter (COCO train2017: 117266); by default the "
        'annotation file is read',
    )
    add_hours_arguments(parser)
    add_cfg_options(parser)
    parser.add_argument('--work-dir', help='work folder of earlier starts, as of train.py')
    parser.add_argument(
        '--plot',
        type=Path,
        metavar='FILE.png',
        help='draw the LR schedule; or the hours',
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object, nothing else')
    return parser.parse_args()


def look(cfg: Config, args: argparse.Namespace) -> None:
    """Check the data, if they are read.

    Args:
        cfg (Config): The config.
        args (Namespace): The parsed arguments.

    Raises:
        SettingError: If the training would be refused.
    """
    if args.images is not None and not args.measure:
        return
    try:
        look_at_data(cfg, ['train', 'val'])
    except SettingError as error:
        if 'no such' not in str(error) or args.measure:
            raise
        raise SettingError(f'{error} Or give the number of images by --images.') from error


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Print the plan and draw the schedule, or the hours."""
    by_hours = check_hours_arguments(args)
    if args.plot:
        check_output('--plot', args.plot, PICTURES)
    look(cfg, args)
    name = Path(args.config).stem
    # Libraries print to stdout too, which is for the plan alone.
    with redirect_stdout(sys.stderr):
        if by_hours:
            hours = hours_of(cfg, args)
            figure = draw_hours(hours, name) if args.plot else None
            text = hours_as_json(hours) if args.json else hours_as_text(hours)
        else:
            plan = make_plan(cfg, args.gpus and args.gpus[0], args.images)
            starts = read_starts(cfg.work_dir)
            figure = draw_lr(plan, name) if args.plot else None
            text = as_json(plan, starts) if args.json else as_text(plan, starts)
    if figure is not None:
        figure.savefig(args.plot)
    print(text)


if __name__ == '__main__':
    main()
