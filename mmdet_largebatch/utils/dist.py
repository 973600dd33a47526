"""What the ranks decide together between two updates."""

import torch
import torch.distributed as dist


class Agreement:
    """Ranks tell each other whether something happened to one of them.

    It works on the CPU, over gloo, whatever the gradients go over: neither a GPU nor its queue of
    work is touched. To be made, and asked, on all ranks at the same points of the program.
    """

    def __init__(self) -> None:
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        self._group = None if alone else dist.new_group(backend='gloo')

    def any(self, flag: bool) -> bool:
        """Whether it is so on one rank at least.

        Args:
            flag (bool): Whether it is so on this rank.

        Returns:
            bool: The same answer on every rank.
        """
        if self._group is None:
            return flag
        flags = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(flags, dist.ReduceOp.MAX, self._group)
        return bool(flags)

    def first(self, text: str) -> str:
        """What a rank has to say, of several the one of the lowest rank.

        Args:
            text (str): What this rank says; empty for nothing.

        Returns:
            str: The same on every rank.
        """
        if self._group is None:
            return text
        texts = [''] * dist.get_world_size()
        dist.all_gather_object(texts, text, self._group)
        return next(filter(None, texts), '')

    def wait(self) -> None:
        """Go on when every rank has come here."""
        if self._group is not None:
            dist.barrier(self._group)
