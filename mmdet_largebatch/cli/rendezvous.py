"""Rendezvous of torchrun.py: a new store for the ranks at every restart.

torch >= 2.5 gives restarted ranks the store of the ranks before them, with the addresses of dead
processes (pytorch#135712). Here the first agent opens a new store at each rendezvous, on a free
port.
"""

import os
import uuid
from pathlib import Path

from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler

BACKEND = 'largebatch'


class NoRestartError(Exception):
    """A rank has reported that a restart cannot help."""


class FreshStoreRendezvous(DynamicRendezvousHandler):
    """torchrun's rendezvous over c10d, with a separate store for the ranks of each round."""

    use_agent_store = True

    def get_backend(self) -> str:
        """Return the name of this rendezvous in torchrun."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Join the next round, unless a rank has reported that a restart cannot help.

        Returns:
            RendezvousInfo: The round, with the address of its store.

        Raises:
            NoRestartError: If the status file holds a final status.
        """
        file = Path(os.environ['LARGEBATCH_STATUS_FILE'])
        if is_final(file):
            raise NoRestartError
        file.unlink(missing_ok=True)
        info = super().next_rendezvous()
        if info.rank == 0:
            self._ranks_store = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
            address = f'{self._this_node.addr} {self._ranks_store.port}'
            info.store.set('ranks_store', address)
        host, port = info.store.get('ranks_store').decode().split()
        return RendezvousInfo(
            info.store, info.rank, info.world_size, RendezvousStoreInfo(host, int(port))
        )


def is_final(file: Path) -> bool:
    """Return True if a rank wrote a final status, see mmdet_largebatch/utils/exit_codes.py."""
    return file.exists() and file.read_text().endswith(' final')


def _create(params: RendezvousParameters) -> FreshStoreRendezvous:
    backend, store = create_backend(params)
    # The first machine names the run for all machines and restarts, see checkpoints/first_start.py.
    name = store.compare_set('largebatch_run', '', uuid.uuid4().hex)
    os.environ['LARGEBATCH_RUN'] = name.decode()
    return FreshStoreRendezvous.from_backend(
        params.run_id, store, backend, params.min_nodes, params.max_nodes, params.local_addr
    )


def register() -> None:
    """Register the rendezvous with torchrun as `BACKEND`."""
    # Otherwise torch opens a second store.
    os.environ['TORCH_DISABLE_SHARE_RDZV_TCP_STORE'] = '1'
    rendezvous_handler_registry.register(BACKEND, _create)
