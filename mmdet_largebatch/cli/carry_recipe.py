"""Write the recipe of a config for another global batch.

    python tools/carry_recipe.py mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py --global-batch 128

The written config inherits from CONFIG and says only what changes, each line with its rule.
"""

import argparse
import os
from pathlib import Path

from mmengine.config import Config

from ..checks import check, invalid
from ..compat import is_pure_python
from ..errors import SettingError
from ..recipes import Change, carry_recipe, recipe_text
from ..recipes.base_batch import IN_NAME, Batches, find_batches
from ..recipes.config_file import brief, subject
from ..recipes.optimizer import STARTS
from ..schedulers.scaling import SCALE_EXPONENTS
from ..version import __version__
from . import check_output, one_line_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Write the recipe of a config for another global batch'
    )
    parser.add_argument('config', help="config file, or MMDetection's own as mmdet::FOLDER/FILE.py")
    parser.add_argument(
        '--global-batch', type=int, required=True, metavar='N', help='images of an update'
    )
    parser.add_argument(
        '--optimizer', choices=list(STARTS), help="optimizer of the recipe (the config's)"
    )
    parser.add_argument(
        '--base-batch',
        type=int,
        metavar='N',
        help='images of an update that the config is meant for; by default '
        "auto_scale_lr.base_batch_size or the 8xb2 in the file's name",
    )
    parser.add_argument(
        '--lr-rule', choices=list(SCALE_EXPONENTS), help='rule of the LR (that of the optimizer)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='FILE.py',
        help='file to write; by default the name of the config with its new batch, in this folder',
    )
    parser.set_defaults(cfg_options=None, work_dir=None, launcher='none', local_rank=0)
    return parser.parse_args()


def output_file(args: argparse.Namespace, micro_batch: int) -> Path:
    """Return the file to write.

    Args:
        args (Namespace): The parsed ``config``, ``global_batch``, ``optimizer`` and ``out``.
        micro_batch (int): Images of a micro-batch.

    Returns:
        Path: The file.

    Raises:
        SettingError: If it cannot be written, is the config itself, or is there and not ``--out``.
    """
    source = Path(args.config.split('::')[-1])
    out = args.out
    if out is None:
        batch = f'{args.global_batch // micro_batch}xb{micro_batch}'
        batch += f'-{args.optimizer.lower()}' if args.optimizer else ''
        stem = IN_NAME.sub(batch, source.stem)
        out = Path(f'{stem if stem != source.stem else f"{source.stem}_{batch}"}.py')
        wanted = 'given: a file of this name is there'
        check(not out.exists(), '--out', str(out), wanted)
    check_output('--out', out, ['.py'])
    same = out.exists() and source.exists() and out.samefile(source)
    check(not same, '--out', str(out), 'another file than CONFIG, from which it inherits')
    return out


def inherited(config: str, out: Path) -> str:
    """Return ``_base_`` of a written config.

    Args:
        config (str): The config, as on the command line.
        out (Path): The written file.

    Returns:
        str: ``PACKAGE::FOLDER/FILE.py`` as it is, another config as a path from the written file.
    """
    if '::' in config:
        return config
    return os.path.relpath(Path(config).resolve(), out.resolve().parent)


def summary(changes: list[Change], batches: Batches) -> str:
    """Return the lines to print: the base batch, each change, and what stays.

    Args:
        changes (list[Change]): The changes.
        batches (Batches): The old and the new global batch.

    Returns:
        str: The lines.
    """
    lines = [f'base batch {batches.base} from {batches.source}; new batch {batches.new}']
    for change in changes:
        if change.stays:
            lines.append(f'note: {subject(change)}: {change.why}')
        elif change.path[-1] != '_delete_':
            was = change.was or ('not set' if change.old is None else brief(change.old))
            lines.append(f'{change.key}: {was} -> {brief(change.new)} ({change.why})')
    return '\n'.join(lines)


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Write the recipe and print what changes."""
    if is_pure_python(cfg.filename):
        raise invalid(
            'config',
            args.config,
            'a config with _base_; carry a pure-Python config by '
            'mmdet_largebatch.carry_recipe(cfg, global_batch)',
        )
    _, changes = carry_recipe(cfg, args.global_batch, args.optimizer, args.base_batch, args.lr_rule)
    batches = find_batches(cfg, args.global_batch, args.base_batch)
    out = output_file(args, cfg.train_dataloader.batch_size)
    heading = (
        f'{Path(cfg.filename).name} carried from global batch {batches.base} ({batches.source}) to '
        f'{batches.new}, by tools/carry_recipe.py of mmdet_largebatch {__version__}.'
    )
    text = recipe_text(inherited(args.config, out), changes, heading)
    try:
        out.write_text(text)
    except OSError as error:
        raise SettingError(f'--out={out}: cannot be written ({error.strerror}).') from error
    print(summary(changes, batches))
    print(f'Written: {out}')


if __name__ == '__main__':
    main()
