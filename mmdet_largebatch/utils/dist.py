"""Agree between ranks over one CPU process group.

The group uses gloo, whatever backend the gradients use, so no GPU waits. Every function is
collective: all ranks call it at the same point of the program.
"""

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

# The default process group and the CPU group made beside it.
_groups: tuple[Any, Any] = (None, None)


def cpu_group() -> dist.ProcessGroup | None:
    """Return the CPU process group, created by the first call; None for a single rank."""
    global _groups
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    world = dist.group.WORLD
    if _groups[0] is not world:
        try:
            _groups = world, dist.new_group(backend='gloo', timeout=_timeout(world))
        except RuntimeError as error:
            # No SettingError: the network may be mended when the run is restarted.
            raise RuntimeError(
                f'The ranks cannot connect over gloo ({" ".join(str(error).split())}). On several '
                'machines, set GLOO_SOCKET_IFNAME to the interface of their network, such as eth0.'
            ) from error
    return _groups[1]


def _timeout(world: Any) -> timedelta:
    """Return the timeout of the default group (``env_cfg.dist_cfg.timeout``), or gloo's longer one.

    NCCL's own default is shorter than gloo's. There is no public way to read a timeout.
    """
    try:
        own = world._get_backend(world._device_types[0]).options._timeout
    except (AttributeError, RuntimeError):
        return dist.default_pg_timeout
    return max(own, dist.default_pg_timeout)


def any_rank(flag: bool) -> bool:
    """Return True on every rank if `flag` is true on any rank."""
    group = cpu_group()
    if group is None:
        return flag
    flags = torch.tensor([flag], dtype=torch.int32)
    dist.all_reduce(flags, dist.ReduceOp.MAX, group)
    return bool(flags)


def minimum(value: int) -> int:
    """Return the smallest value of all ranks on every rank."""
    group = cpu_group()
    if group is None:
        return value
    values = torch.tensor([value])
    dist.all_reduce(values, dist.ReduceOp.MIN, group)
    return int(values)


def first_message(text: str) -> str:
    """Return on every rank the first non-empty message; empty if no rank has one."""
    group = cpu_group()
    if group is None:
        return text
    texts = [''] * dist.get_world_size()
    dist.all_gather_object(texts, text, group)
    return next(filter(None, texts), '')


def from_main_process(value: Any) -> Any:
    """Return the value of rank 0 on every rank."""
    values, group = [value], cpu_group()
    if group is not None:
        dist.broadcast_object_list(values, src=0, group=group)
    return values[0]


def barrier() -> None:
    """Wait until every rank has called this."""
    group = cpu_group()
    if group is not None:
        dist.barrier(group)
