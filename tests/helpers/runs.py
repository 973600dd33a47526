"""Trainings as a user types them, and how two of them differ."""

import gc
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from helpers.common import PYTHONPATH, ROOT
from helpers.forked import free_port
from helpers.tools import run_here

HERE = Path(__file__).parent
# What a user changes to bring a stock config to the global batch: one micro-batch a rank here.
GLOBAL_BATCH = dict(
    train_cfg=dict(type='GlobalBatchTrainLoop', global_batch_size=4),
    default_hooks=dict(
        checkpoint=dict(type='AtomicCheckpointHook'), preemption=dict(type='PreemptionHook')
    ),
)
STOCK = dict(default_hooks=dict(draws=dict(type='DrawAsGlobalBatch')))
# What depends on the clock, or on where a file is.
TIMES = {'time', 'data_time', 'memory', 'eta'}
_numbers = itertools.count()


def merged(*parts):
    """Nested dicts in one; a later value takes the place of an earlier one."""
    result = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            replaces = both and value.get('_delete_')
            result[key] = merged(result[key], value) if both and not replaces else value
    return result


class Run:
    """A work folder and how the last training in it ended."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.status, self.output = None, ''

    @property
    def errors(self):
        """Lines that tell a user's mistake."""
        return [line for line in self.output.splitlines() if line.startswith('error: ')]

    @property
    def files(self):
        """Checkpoints by name; a published one without its hash."""
        return sorted(
            str(path.relative_to(self.folder)).split('.pth')[0].split('-')[0]
            for path in self.folder.rglob('*.pth')
        )

    def checkpoint(self, name):
        return torch.load(self.folder / name, map_location='cpu', weights_only=False)

    @property
    def last(self):
        """The checkpoint that was saved last."""
        return torch.load(
            (self.folder / 'last_checkpoint').read_text(), map_location='cpu', weights_only=False
        )

    @property
    def logged(self):
        """Merged log lines of all starts, without times; a later start replaces an earlier one."""
        lines = {}
        for path in sorted(self.folder.glob('*/vis_data/scalars.json')):
            for text in path.read_text().splitlines():
                line = json.loads(text)
                kind = 'train' if {'lr', 'train/lr'} & line.keys() else 'val'
                lines[kind, line.get('step')] = {
                    key: value
                    for key, value in line.items()
                    if not TIMES & {key, key.split('/')[-1]}
                }
        return lines

    @property
    def points(self):
        """Records of the Record hook."""
        return json.loads((self.folder / 'points.json').read_text())


def write_config(folder, *parts, base='tiny.py'):
    """A config file on the base of these tests, with a name that no other has."""
    path = Path(folder) / f'config_{next(_numbers)}.py'
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f'{key} = {value!r}' for key, value in merged(*parts).items()]
    path.write_text('\n'.join([f'_base_ = {str(HERE / base)!r}', *lines, '']))
    return path


def train(folder, *parts, arguments=(), config=None):
    """`python tools/train.py CONFIG --work-dir FOLDER ARGUMENTS`, in this process.

    Args:
        folder (Path): The work folder.
        *parts (dict): What the config changes in the base.
        arguments (Sequence[str]): Further arguments.
        config (Path, optional): A config that is written already.

    Returns:
        Run: The run, with its exit status.
    """
    config = config or write_config(Path(folder).parent, *parts)
    run = Run(folder)
    done = run_here('train.py', config, '--work-dir', folder, *arguments)
    gc.collect()
    run.status, run.output = done.returncode, done.stdout + done.stderr
    return run


def train_as_process(folder, *parts, arguments=(), ranks=1):
    """The same as a process; with several ranks under tools/dist_train.sh."""
    config = write_config(Path(folder).parent, *parts)
    words = [sys.executable, 'tools/train.py', config]
    if ranks > 1:
        words = ['tools/dist_train.sh', config, ranks]
    run = Run(folder)
    done = subprocess.run(
        [str(word) for word in (*words, '--work-dir', folder, *arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1800,
        env=os.environ
        | dict(
            PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
            PYTHONPATH=PYTHONPATH,
            OMP_NUM_THREADS='1',
            PORT=str(free_port()),
        ),
    )
    run.status, run.output = done.returncode, done.stdout
    return run


def differences(a, b, path=''):
    """Where two nested values differ, to the bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            if key not in a or key not in b:
                yield f'{path}/{key}: only in the {"second" if key in b else "first"}'
            else:
                yield from differences(a[key], b[key], f'{path}/{key}')
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            yield f'{path}: {len(a)} and {len(b)} entries'
        for index, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from differences(x, y, f'{path}/{index}')
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype
        if not same or not torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)):
            yield f'{path}: {a.flatten()[:2].tolist()} and {b.flatten()[:2].tolist()}'
    elif type(a) is not type(b) or not (a == b or (a != a and b != b)):
        yield f'{path}: {a!r} and {b!r}'


# What a run goes on from.
STATE = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')


def state(checkpoint):
    """Return the parts of a checkpoint that are equal bit for bit in equal trainings."""
    meta = {key: checkpoint['meta'][key] for key in ('epoch', 'iter', 'seed')}
    return {key: checkpoint[key] for key in STATE if key in checkpoint} | dict(meta=meta)


def assert_same(a, b):
    found = list(itertools.islice(differences(a, b), 12))
    assert not found, '\n'.join(found)
