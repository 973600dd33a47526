"""End a command-line tool with one line on a user's mistake."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr
from functools import wraps
from io import StringIO
from pathlib import Path

from mmdet.registry import OPTIMIZERS
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from ..checkpoints import checkpoint_defect
from ..checks import invalid
from ..errors import DivergenceError, PictureError, SettingError
from ..utils.exit_codes import (
    DIVERGED,
    STATUS_FILE,
    WRONG_SETTING,
    Preempted,
    exit_training,
    final_status,
    tell_launcher,
)
from ..utils.local_rank import is_first_of_machine, set_local_rank
from .failed_evaluation import end_if_failed_again
from .launch import load_config
from .missing_packages import missing_package
from .wrong_arguments import refused_value, wrong_argument


def check_words(words: Sequence[str]) -> None:
    """Refuse an empty argument, as of a shell variable that is not set.

    Args:
        words (Sequence[str]): The command line.

    Raises:
        SettingError: If a word is empty, or an option has an empty value.
    """
    for index, word in enumerate(words):
        option, equals, value = word.partition('=')
        if word == '':
            before = words[index - 1] if index else ''
            option = before if before.startswith('--') else f'argument {index + 1}'
        elif not (option.startswith('--') and equals and value == ''):
            continue
        raise invalid(option, '', 'a value; of an option that is not needed, leave out both')


def one_line_errors(
    parse_args: Callable[[], Namespace], trains: bool = False
) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Decorate the main function of a tool: load its config, report user errors in one line.

    The function is called with the parsed arguments, and with the config where ``config`` is one
    of them. A :class:`SettingError` exits with status 2, a divergence with 3. An error of a library
    counts as a user error if the checkpoint is broken, the optimizer unknown, an argument in the
    config wrong or refused by its class, or a package missing. Any other error keeps its traceback.

    Of several processes one on each machine prints the line. ``torchrun.py`` restarts none of them.

    Args:
        parse_args (Callable): Reads the command line.
        trains (bool): True for a tool that trains. Defaults to False.

    Returns:
        Callable: The decorator.
    """

    def decorate(body: Callable[..., None]) -> Callable[[], None]:
        @wraps(body)
        def main() -> None:
            cfg = None
            set_local_rank()
            try:
                check_words(sys.argv[1:])
                # argparse prints its errors itself.
                with nullcontext() if is_first_of_machine() else redirect_stderr(StringIO()):
                    args = parse_args()
                if 'config' in args:
                    cfg = load_config(args)
                    body(args, cfg)
                else:
                    body(args)
            except Preempted as end:
                exit_training(end.code, restart=True)
            except SystemExit as end:
                # Of argparse.
                if end.code == WRONG_SETTING:
                    tell_launcher(WRONG_SETTING, restart=False)
                raise
            except Exception as error:
                _report(error, cfg, trains)
                raise

        return main

    return decorate


def _report(error: Exception, cfg: Config | None, trains: bool) -> None:
    """Print the line for a user's mistake and exit. Return on any other error."""
    line = _explain(error, cfg, trains)
    if line is None:
        # Another rank has exited with its line. This one failed because that rank is gone.
        if (status := final_status()) is not None:
            sys.exit(status)
        if trains:
            end_if_failed_again(error)
        return
    status = DIVERGED if isinstance(error, DivergenceError) else WRONG_SETTING
    speaks = tell_launcher(status, restart=False)
    # A mistake that one rank alone meets is printed by that rank.
    if speaks or (getattr(error, 'alone', False) and STATUS_FILE not in os.environ):
        print(f'error: {line}', file=sys.stderr, flush=True)
    if status == DIVERGED:
        exit_training(DIVERGED, restart=False)
    sys.exit(status)


def _explain(error: Exception, cfg: Config | None, trains: bool) -> str | None:
    """Return the line for a user's mistake, None for any other error."""
    if isinstance(error, DivergenceError):
        return str(error)
    if isinstance(error, SettingError):
        resumable = trains and cfg and isinstance(error, PictureError)
        return str(error) + (_saved_before(cfg) if resumable else '')
    if line := (cfg and wrong_argument(error, cfg)) or missing_package(error):
        return line
    text = ' '.join(str(error).split())
    first = (str(error).splitlines() or [''])[0]
    if isinstance(error, KeyError) and ' is not in the ' in text:
        return first.strip('\'"').split('. Please')[0] + '.'
    if 'should be either all None or not None' in text:
        return first.split(', but got')[0] + '.'
    if 'base_wd should not be None' in text:
        wanted = 'set with factors of it in optim_wrapper.paramwise_cfg, such as norm_decay_mult'
        return str(invalid('optim_wrapper.optimizer.weight_decay', None, wanted))
    if isinstance(error, ImportError) and text.startswith('Failed to import '):
        # A name in a pure-Python config. MMEngine's line has the file and the line number.
        return first + '.'
    if 'only available training on gpu' in text:
        return 'optim_wrapper.type=AmpOptimWrapper (--amp) needs a GPU and none is visible.'
    if not cfg:
        return None
    return _broken_checkpoint(cfg) or _unknown_optimizer(cfg) or refused_value(error, cfg)


def _saved_before(cfg: Config) -> str:
    """Name the checkpoint to resume from after a broken picture."""
    pointer = Path(cfg.work_dir) / 'last_checkpoint'
    newest = pointer.is_file() and find_latest_checkpoint(cfg.work_dir)
    return f' --resume then goes on from {newest}.' if newest else ''


def _broken_checkpoint(cfg: Config) -> str | None:
    """Return the defect of the checkpoint that a run loads."""
    path = cfg.get('load_from')
    if not path or not os.path.isfile(path):
        return None
    defect = checkpoint_defect(path)
    return defect and f'checkpoint={path}: {defect}.'


def _unknown_optimizer(cfg: Config) -> str | None:
    """Name an optimizer that is not registered. MMEngine's own error lacks the name."""
    name = (cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('type')
    if isinstance(name, str) and OPTIMIZERS.get(name) is None:
        return f'optim_wrapper.optimizer.type={name}: no optimizer of this name is registered.'
    return None
