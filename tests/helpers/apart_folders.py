"""2 ranks as on 2 machines, each in a working directory of its own."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch.distributed as dist

from helpers.forked import run_ranks
from helpers.tools import run_here


def run(folder, shapes, words):
    """Run a tool on shapes. Ranks that wait for each other forever are killed."""
    signal.alarm(600)
    # The server that forks the ranks has the environment of the test that started it.
    os.environ['SHAPES'] = str(shapes)
    own = Path(folder, f'machine_{dist.get_rank()}')
    own.mkdir(parents=True)
    done = run_here(*words, cwd=own)
    print(done.stdout, done.stderr)
    if done.returncode:
        sys.exit(done.returncode)


def main(folder, shapes, *words):
    run_ranks(partial(run, folder, shapes, [*words, '--launcher', 'pytorch']), 2)
