"""Check a machine with a GPU, part by part, and write one Markdown report. See tools/gpu_check.sh.

    python tools/benchmarks/gpu_check.py [--part NAME ...] [--out FILE.md] [--work-dir DIR]
        [--shapes DIR] [--device cpu] [--short]

Each part is a command in a process of its own. It passes, fails, or is skipped for a reason that
the report has. The others run in any case. The report is written anew after each part. The exit
status is 1 if a part failed.

`--device cpu` runs the parts that a CPU can run, and `--short` makes each as short as possible.
Both show that the commands are right, and measure nothing.
"""

import argparse
import importlib.util
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from mmdet_largebatch.checks import check
from mmdet_largebatch.cli.outputs import check_folder, check_output
from mmdet_largebatch.errors import SettingError

ROOT = Path(__file__).resolve().parents[2]
RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
MAKE_SHAPES = 'tools/make_shapes.py'
SECONDS = 3600  # Longest time of a part.
LAST_LINES = 25  # Of a part that failed.


@dataclass(frozen=True)
class Part:
    """A command, what it shows, and what it needs."""

    name: str
    title: str
    words: list[str]
    needs: tuple[str, ...]
    is_markdown: bool = True


@dataclass(frozen=True)
class Outcome:
    """A part that ``passed``, ``failed`` or was ``skipped``, with a reason and its output."""

    part: Part
    result: str
    reason: str = ''
    output: str = ''
    seconds: float = 0.0


def make_parts(args: argparse.Namespace, work_dir: Path) -> list[Part]:
    """Return all parts, in the order of the report."""
    shapes = ['--shapes', str(args.shapes or 'data/shapes')]
    short = ['--short'] if args.short else []
    loop, hooks, config = ['--images', '8', '--part', 'update', 'accumulate'], [], []
    if args.short:
        few = ['--pairs', '1', '--images']
        loop, hooks = [*few, '2', '--part', 'update'], [*few, '1']
        config = [RECIPE, '--rounds', '1']
    benchmark = 'tools/benchmarks/{}.py'.format
    parts = [] if args.shapes else [Part('shapes', 'Data', [MAKE_SHAPES], ('device', 'ops'), False)]
    parts += [
        Part(
            'tests',
            'Tests that need a GPU',
            ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/gpu'],
            ('gpu', 'pytest'),
            is_markdown=False,
        ),
        Part(
            'optimizers',
            "A step of LAMB and LARS, beside Apex's and timm's",
            [benchmark('optimizers'), *config, '--device', args.device],
            ('device',),
        ),
        Part(
            'loop',
            "Images a second, beside MMEngine's train loop",
            [benchmark('loop'), *shapes, *loop],
            ('device', 'ops'),
        ),
        Part(
            'hooks', 'Cost of the hooks', [benchmark('hooks'), *shapes, *hooks], ('device', 'ops')
        ),
    ]
    for dtype in ('float32', 'float16', 'bfloat16'):
        words = ['--dtype', dtype, '--work-dir', str(work_dir / dtype), *shapes, *short]
        needs = ('device', 'ops', 'nccl', dtype)
        title = f'The recipe on shapes on 1 process, {dtype}'
        parts.append(Part(f'train-{dtype}', title, [benchmark('train_shapes'), *words], needs))
    return parts


def no_gpu() -> str | None:
    """Return the reason why torch has no GPU."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f'no GPU: torch {torch.__version__} is built without CUDA'
    return f'no GPU: torch {torch.__version__} (CUDA {torch.version.cuda}) sees none'


def no_cuda_ops() -> str | None:
    """Return the reason why MMCV's operators do not run on a GPU."""
    try:
        from mmcv.ops import get_compiling_cuda_version
    except ImportError as error:
        return f'MMCV has no compiled ops ({str(error).splitlines()[0]})'
    version = get_compiling_cuda_version()
    return None if version[:1].isdigit() else "MMCV's ops are compiled without CUDA"


def no_bfloat16() -> str | None:
    """Return the reason why there is no bfloat16."""
    return None if torch.cuda.is_bf16_supported() else 'the GPU has no bfloat16'


def no_nccl() -> str | None:
    """Return the reason why there is no nccl."""
    ok = dist.is_available() and dist.is_nccl_available()
    return None if ok else 'torch is built without nccl'


def no_pytest() -> str | None:
    """Return the reason why tests cannot run."""
    return None if importlib.util.find_spec('pytest') else 'pytest is not installed'


# The reason why a need is not met, None if it is. A device is a GPU, but for a rehearsal.
REASONS: dict[str, Callable[[], str | None]] = dict(
    device=no_gpu,
    gpu=no_gpu,
    ops=no_cuda_ops,
    nccl=no_nccl,
    pytest=no_pytest,
    float32=lambda: None,
    float16=no_gpu,
    bfloat16=no_bfloat16,
)
ON_A_CPU = ('device', 'ops', 'nccl', 'bfloat16')  # Needs that --device cpu does not have.


def run(part: Part, device: str, log: Path) -> Outcome:
    """Run a part, or find the reason to skip it."""
    for need in part.needs:
        reason = None if device == 'cpu' and need in ON_A_CPU else REASONS[need]()
        if reason:
            return Outcome(part, 'skipped', reason)
    begin = time.monotonic()
    environment = dict(os.environ)
    if device == 'cpu':
        environment['CUDA_VISIBLE_DEVICES'] = ''
    with log.open('w') as errors:
        process = subprocess.Popen(
            [sys.executable, *part.words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        reason = ''
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except BaseException as error:
            # The processes that it started too.
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            reason = f'it took longer than {SECONDS} s'
    if process.returncode and not reason:
        reason = f'exit status {process.returncode}'
    if reason:
        output = f'{log.read_text(errors="replace")}\n{output}'
        output = '\n'.join(output.strip().splitlines()[-LAST_LINES:])
    if reason or not part.is_markdown:
        output = f'```\n{output.strip()}\n```'
    result = 'failed' if reason else 'passed'
    return Outcome(part, result, reason, output.strip(), time.monotonic() - begin)


def first_line(*words: str) -> str:
    """Return the first line that a command prints, or the reason why there is none."""
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    except OSError:
        return f'none ({words[0]} is not there)'
    except subprocess.TimeoutExpired:
        return f'none ({words[0]} does not answer)'
    return (done.stdout.strip() or done.stderr.strip() or 'none').splitlines()[0]


def apex() -> str:
    """Return the module of Apex's FusedLAMB, or the reason why LAMB does not run on it."""
    try:
        from mmdet_largebatch.optimizers.apex_lamb import find_fused_lamb

        return find_fused_lamb().__module__
    except Exception as error:
        return ' '.join(str(error).split())


def environment() -> dict[str, str]:
    """Return what the figures depend on, by name."""
    query = '--query-gpu=name,driver_version,memory.total,power.limit'
    about = {
        'date': time.strftime('%Y-%m-%d %H:%M %Z'),
        'commit': first_line('git', 'describe', '--always', '--dirty', '--abbrev=12'),
        'GPU, driver, memory, power limit': first_line(
            'nvidia-smi', query, '--format=csv,noheader'
        ),
    }
    about['Apex'] = apex()
    try:
        from mmdet.utils import collect_env

        about |= {key: str(value) for key, value in collect_env().items()}
    except Exception as error:
        about |= {'versions': f'unknown ({error})', 'torch': torch.__version__}
    # The compiling settings of PyTorch are a page.
    about.pop('PyTorch compiling details', None)
    return about | {'cores': str(os.cpu_count()), 'platform': platform.platform()}


def as_markdown(about: dict[str, str], outcomes: list[Outcome]) -> str:
    """Return the report."""
    count = {result: 0 for result in ('passed', 'failed', 'skipped')}
    for outcome in outcomes:
        count[outcome.result] += 1
    lines = [
        '# GPU check',
        '',
        ', '.join(f'{number} {result}' for result, number in count.items()) + '.',
        '',
        '| part | result | seconds |',
        '|---|---|---|',
    ]
    for x in outcomes:
        result = f'{x.result}: {x.reason}' if x.reason else x.result
        lines.append(f'| {x.part.name} | {result} | {x.seconds:.0f} |')
    lines += ['', '## Environment', '']
    lines += [f'- {name}: {" ".join(value.split())}' for name, value in about.items()]
    for x in outcomes:
        lines += ['', f'## {x.part.title}', '']
        if x.result == 'skipped':
            lines.append(f'Skipped: {x.reason}.')
            continue
        lines += [f'`python {shlex.join(x.part.words)}`', '']
        lines += [f'Failed: {x.reason}. The last lines:', ''] if x.reason else []
        lines.append(x.output)
    return '\n'.join(lines) + '\n'


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Check a machine with a GPU')
    parser.add_argument('--part', nargs='+', metavar='NAME', help='the parts to run')
    parser.add_argument('--out', type=Path, metavar='FILE.md', help='the report')
    parser.add_argument('--work-dir', type=Path, help='folder of logs; a new one by default')
    parser.add_argument('--shapes', type=Path, help='root folder of the shapes; else made')
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda')
    parser.add_argument('--short', action='store_true', help='show that the parts run, and no more')
    return parser.parse_args()


def main() -> int:
    """Run the parts and write the report; return the exit status."""
    args = parse_args()
    work_dir = args.work_dir or ROOT / 'work_dirs/gpu_check' / time.strftime('%Y%m%d_%H%M%S')
    work_dir = work_dir.resolve()
    args.shapes = args.shapes and args.shapes.resolve()
    path = (args.out or work_dir / 'report.md').resolve()
    parts = make_parts(args, work_dir)
    names = [part.name for part in parts]
    unknown = [name for name in args.part or names if name not in names]
    try:
        check(not unknown, '--part', ' '.join(unknown), f'one of {", ".join(names)}')
        check_folder('--work-dir', work_dir)
        check_output('--out', path, ['.md'])
    except SettingError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    about, outcomes = environment(), []
    for part in parts:
        if args.part and part.name not in args.part:
            continue
        outcomes.append(run(part, args.device, work_dir / f'{part.name}.log'))
        last = outcomes[-1]
        print(f'== {part.name}: {last.result}', *([last.reason] if last.reason else []), flush=True)
        path.write_text(as_markdown(about, outcomes))
    print(f'== report: {path}')
    return int(any(outcome.result == 'failed' for outcome in outcomes))


if __name__ == '__main__':
    sys.exit(main())
