"""A user's mistake ends a command-line tool with one line."""

import json
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from mmdet.registry import OPTIMIZERS
from mmengine.config import Config

from ..batching.sampler import EMPTY
from ..checkpoints import checkpoint_defect
from ..errors import DivergenceError, SettingError
from ..exit_status import DIVERGED, WRONG_SETTING, begin_anew, leave


def check_checkpoint(name: str, path: Optional[str]) -> None:
    """Refuse a checkpoint that is not there. Addresses (``scheme://...``) are left to MMEngine.

    Args:
        name (str): The setting that holds the path, for the message.
        path (str, optional): The path.

    Raises:
        SettingError: If there is no such file.
    """
    if path and '://' not in path and not os.path.isfile(path):
        raise SettingError(f'{name}={path}: no such checkpoint.')


def check_work_dir(cfg: Config) -> None:
    """Make the work folder and refuse one that cannot be written, before anything is built.

    Args:
        cfg (Config): The config, with ``work_dir`` set.

    Raises:
        SettingError: If no file can be made in it.
    """
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cfg.work_dir, prefix='.writable'):
            pass
    except OSError as error:
        raise SettingError(
            f'work_dir={cfg.work_dir}: no file can be written there ({error.strerror}). Must be a '
            'folder with room and permission; set it by --work-dir.'
        ) from error


def _datasets(cfg: Config, splits: List[str]) -> Iterator[Dict]:
    """Every dataset of a config that reads an annotation file, wrapped or concatenated ones too."""
    pending = [cfg.get(f'{split}_dataloader') for split in splits]
    while pending:
        node = pending.pop(0)
        if isinstance(node, (list, tuple)):
            pending = [*node, *pending]
        elif isinstance(node, dict):
            if node.get('ann_file'):
                yield node
            pending = [node.get('dataset'), node.get('datasets'), *pending]


def annotation_files(cfg: Config, splits: List[str]) -> List[Path]:
    """Annotation files on this machine's own file system that a run reads.

    Args:
        cfg (Config): The config.
        splits (List[str]): Of ``'train'``, ``'val'``, ``'test'``.

    Returns:
        List[Path]: Their paths, joined with ``data_root`` as MMEngine joins them.
    """
    files = []
    for dataset in _datasets(cfg, splits):
        root, name = dataset.get('data_root') or '', dataset['ann_file']
        if '://' not in root + name and not dataset.get('backend_args'):
            files.append(Path(root) / name)
    for split in splits:
        evaluators = cfg.get(f'{split}_evaluator') or []
        for metric in [evaluators] if isinstance(evaluators, dict) else evaluators:
            name = metric.get('ann_file')
            if name and '://' not in name and not metric.get('backend_args'):
                files.append(Path(name))
    return list(dict.fromkeys(files))


def check_annotations(cfg: Config, splits: List[str]) -> None:
    """Refuse annotation files that are not there, before anything is built.

    Args:
        cfg (Config): The config.
        splits (List[str]): Of ``'train'``, ``'val'``, ``'test'``.

    Raises:
        SettingError: If a file is missing.
    """
    for path in annotation_files(cfg, splits):
        if not path.is_file():
            raise SettingError(
                f'ann_file={path}: no such annotation file. Put the data there, or set data_root '
                'and ann_file; the shapes are written by `python tools/make_shapes.py`.'
            )


def _broken_annotations(cfg: Config, splits: List[str]) -> Optional[str]:
    """What is wrong with the first .json file that is not in COCO's format, if any is."""
    for path in annotation_files(cfg, splits):
        if path.suffix != '.json':
            continue
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            return f'ann_file={path}: not readable as JSON ({error}).'
        missing = [
            key
            for key in ('images', 'annotations', 'categories')
            if not isinstance(content, dict) or not isinstance(content.get(key), list)
        ]
        if missing:
            return f"ann_file={path}: not in COCO's format, it has no list of {', '.join(missing)}."
    return None


def _broken_checkpoint(cfg: Config) -> Optional[str]:
    """What is wrong with the checkpoint that a run loads, if it does not read."""
    path = cfg.get('load_from')
    if not path or not os.path.isfile(path):
        return None
    defect = checkpoint_defect(path)
    return defect and f'checkpoint={path}: {defect}.'


def _unknown_optimizer(cfg: Config) -> Optional[str]:
    """MMEngine fails on an optimizer's name that is not registered without saying the name."""
    name = (cfg.get('optim_wrapper') or {}).get('optimizer', {}).get('type')
    if isinstance(name, str) and OPTIMIZERS.get(name) is None:
        return f'optim_wrapper.optimizer.type={name}: no optimizer of this name is registered.'
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [''])[0]


def _explain(error: Exception, cfg: Optional[Config], splits: List[str]) -> Optional[str]:
    """The one line that tells a user's mistake, or None where the error is not one."""
    if isinstance(error, DivergenceError):
        return str(error)
    if isinstance(error, SettingError):
        # A data set may be empty because its file is broken.
        broken = _broken_annotations(cfg, splits) if cfg and str(error) == EMPTY else None
        return broken or str(error)
    if isinstance(error, KeyError) and ' is not in the ' in str(error):
        return _first_line(error).strip('\'"').split('. Please')[0] + '.'
    if 'only available training on gpu' in ' '.join(str(error).split()):
        return 'optim_wrapper.type=AmpOptimWrapper (--amp) needs a GPU and none is visible.'
    if cfg is None:
        return None
    return _broken_annotations(cfg, splits) or _broken_checkpoint(cfg) or _unknown_optimizer(cfg)


@contextmanager
def one_line_errors(splits: List[str]) -> Iterator[Dict[str, Config]]:
    """End the program with one line, with status 2 on a user's mistake, 3 on a divergence.

    A :class:`SettingError` is a mistake. So is an error that a library raised where an
    annotation file or the checkpoint turns out to be broken. Any other error keeps its traceback.
    Of several processes the first one on each machine speaks.

    Args:
        splits (List[str]): The data that the tool reads, of ``'train'``, ``'val'``, ``'test'``.

    Yields:
        Dict[str, Config]: A place for the config, under ``'cfg'``, once it is loaded.
    """
    context: Dict[str, Config] = {}
    begin_anew()
    try:
        yield context
    except Exception as error:
        line = _explain(error, context.get('cfg'), splits)
        if line is None:
            raise
        # Of a mistake that one rank alone meets, that rank tells.
        if os.environ.get('LOCAL_RANK', '0') == '0' or getattr(error, 'alone', False):
            print(f'error: {line}', file=sys.stderr, flush=True)
        if isinstance(error, DivergenceError):
            leave(DIVERGED, again=False)
        sys.exit(WRONG_SETTING)
