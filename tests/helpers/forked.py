"""Several ranks on gloo as real processes, which share what was imported before they started."""

import os
import socket
import sys
from multiprocessing import get_context

import torch.distributed as dist


def free_port() -> int:
    """A port of the loopback that nobody listens on; another test may run beside this one."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def join_group(rank, ranks, port):
    """Make this process one of the ranks; the rendezvous is on the loopback."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        MASTER_ADDR='127.0.0.1',
        MASTER_PORT=str(port),
    )
    dist.init_process_group('gloo')


def _rank(function, rank, ranks, port):
    join_group(rank, ranks, port)
    function()
    dist.destroy_process_group()


def run_ranks(function, ranks):
    """Call a function on every rank, each a process of its own; exit if one of them fails.

    Args:
        function (Callable): Takes nothing; the process group is there when it is called.
        ranks (int): Number of processes.
    """
    context, port = get_context('fork'), free_port()
    processes = [
        context.Process(target=_rank, args=(function, rank, ranks, port)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(max(abs(process.exitcode) for process in processes))
