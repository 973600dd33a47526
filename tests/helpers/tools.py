"""The project's tools, run in the tests' own process."""

import gc
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess

from mmengine.visualization import Visualizer
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from helpers.common import ROOT

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1


def run_here(name, *words, cwd=ROOT):
    """Run `python tools/NAME WORDS` without the start of a process, which imports for seconds.

    Args:
        name (str): File in `tools`.
        *words (object): Arguments.
        cwd (Path): Working directory. Defaults to the repository's root.

    Returns:
        CompletedProcess: As of a process.
    """
    status, stdout, stderr = 0, StringIO(), StringIO()
    argv, before = sys.argv, os.getcwd()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    sys.argv = [name, *map(str, words)]
    os.chdir(cwd)
    _forget_visualizers()
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr), warnings.catch_warnings():
            runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')
    except SystemExit as ended:
        status = ended.code or 0
    except Exception:
        status = 1
        stderr.write(traceback.format_exc())
    finally:
        sys.argv = argv
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        _stop_workers()
    return CompletedProcess([name, *words], status, stdout.getvalue(), stderr.getvalue())


def stopped_by_ctrl_c(name, *words, outputs):
    """Run `python tools/NAME WORDS` as a process, and interrupt it once its trainings train.

    Args:
        name (str): File in `tools`.
        *words (object): Arguments.
        outputs (Sequence[Path]): Files that the trainings log to.

    Returns:
        tuple[int, str]: Exit code and stderr.
    """
    process = subprocess.Popen(
        [sys.executable, f'tools/{name}', *map(str, words)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | dict(PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}'),
    )
    end = time.monotonic() + 1800
    while not all(x.exists() and re.search(r'Epoch\(train\)', x.read_text()) for x in outputs):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=1800)[1]
    return process.returncode, errors


def _forget_visualizers(kind=Visualizer):
    """MMEngine keeps visualizers by name: one named `visualizer` would write to an earlier run."""
    kind._instance_dict.clear()
    for derived in kind.__subclasses__():
        _forget_visualizers(derived)


def _stop_workers():
    """End data workers that a tool has left to the end of its process.

    PyTorch would wait 5 s for each as the loader is collected, when its queue works no more.
    """
    for item in gc.get_objects():
        if type(item) is _MultiProcessingDataLoaderIter:
            item._shutdown_workers()


def assert_one_line(done, *parts):
    """Assert that a tool ended with one line for the user, which has these parts."""
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == lines[0]
    for part in parts:
        assert part in lines[0]
