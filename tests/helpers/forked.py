"""Several ranks on gloo as real processes, which share what was imported before they started."""

import gc
import os
import socket
import sys
import tempfile
from multiprocessing import forkserver, get_context
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch.distributed as dist

from helpers.common import PYTHONPATH

# Imported once, before the processes of `run_apart` are forked.
PROGRAMS = ['helpers.trajectory', 'helpers.exact_runs', 'helpers.train_detectors']


def free_port() -> int:
    """A port of the loopback that nobody listens on; another test may run beside this one."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def join_group(rank, ranks, port, **options):
    """Make this process one of the ranks; the rendezvous is on the loopback.

    Args:
        rank (int): Index of the process.
        ranks (int): Number of processes.
        port (int): Port of the rendezvous.
        **options (Any): Of ``init_process_group``, such as ``timeout``.
    """
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    dist.init_process_group('gloo', **options)


def _rank(function, rank, ranks, port, options):
    join_group(rank, ranks, port, **options)
    function()
    # Rank 0 holds the store, by which a slower rank may still connect a group of its own.
    dist.barrier()
    dist.destroy_process_group()


def run_ranks(function, ranks, **options):
    """Call a function on every rank, each a process of its own; exit if one of them fails.

    Args:
        function (Callable): Takes nothing; the process group is there when it is called.
        ranks (int): Number of processes.
        **options (Any): Of ``init_process_group``.
    """
    context, port = get_context('fork'), free_port()
    processes = [
        context.Process(target=_rank, args=(function, rank, ranks, port, options))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(max(abs(process.exitcode) for process in processes))


def _apart(function, arguments, output):
    with open(output, 'w') as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    # The imports are no garbage to be looked through for each data set.
    gc.freeze()
    function(*arguments)


def run_apart(function, *arguments):
    """Call a function in a process of its own, which does not wait for the imports of the stack.

    It is forked from a server, whose imports last some 6 seconds, once for all tests of a process.

    Args:
        function (Callable): A module's function.
        *arguments (object): What can be pickled.

    Returns:
        CompletedProcess: As of a command; what it printed stands in stdout.
    """
    context = get_context('forkserver')
    context.set_forkserver_preload(PROGRAMS)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setenv('PYTHONPATH', PYTHONPATH)
        forkserver.ensure_running()
        output = Path(folder) / 'output'
        process = context.Process(target=_apart, args=(function, arguments, output))
        process.start()
        process.join()
        text = output.read_text() if output.exists() else ''
    return CompletedProcess(function.__qualname__, process.exitcode, text)
