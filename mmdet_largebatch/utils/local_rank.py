"""The first rank of each machine, which prints messages that all ranks have."""

import os
from argparse import ArgumentParser

# Where MMEngine's launchers read the local rank.
VARIABLES = dict(slurm='SLURM_LOCALID', mpi='OMPI_COMM_WORLD_LOCAL_RANK')


def set_local_rank() -> None:
    """Set ``LOCAL_RANK`` under ``--launcher slurm`` and ``mpi``.

    MMEngine sets it under Slurm alone, and only as the runner is built. It reads it under MPI too,
    for the GPU of the model wrapper.
    """
    parser = ArgumentParser(add_help=False)
    parser.add_argument('--launcher', nargs='?')
    launcher = parser.parse_known_args()[0].launcher
    rank = os.environ.get(VARIABLES.get(launcher, ''))
    if rank is not None:
        os.environ['LOCAL_RANK'] = rank


def is_first_of_machine() -> bool:
    """Return True on the first rank of each machine."""
    return os.environ.get('LOCAL_RANK', '0') == '0'
