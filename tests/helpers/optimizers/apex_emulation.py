"""NVIDIA Apex's CUDA extension ``amp_C`` without CUDA, as far as ``FusedLAMB`` calls it.

Written after csrc/multi_tensor_apply.cuh, multi_tensor_l2norm_kernel.cu and multi_tensor_lamb.cu of
https://github.com/NVIDIA/apex at commit 6424da3b. It keeps how lists of tensors are cut into
launches and blocks, that a kernel sees memory and no shapes, what a block computes in float32 with
float32 scalars, and what is refused or goes wrong. It does not keep the order of the sums within a
block, fused multiply-add, and fast-math, which change the last bits.
"""

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Tensors that one launch can take, by the number of lists, and its blocks (multi_tensor_apply.cuh).
MAX_TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30, 6: 24}
MAX_BLOCKS = 320


def chunks_of(size: int, chunk_size: int) -> int:
    """Chunks of a tensor; each is the work of one block."""
    return -(-size // chunk_size)


def plan_launches(
    sizes: Sequence[int], depth: int, chunk_size: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield the blocks of each launch, as tensor and chunk, like ``multi_tensor_apply``.

    A launch goes out only behind a chunk: an empty tensor at the end loses the pending launch, and
    where an empty one fills the table of tensors the next is written past its end (IndexError).
    """
    room = MAX_TENSORS[depth]
    held, blocks = 0, []
    for t, size in enumerate(sizes):
        if held == room:
            raise IndexError(f'tensor {t} is written past the {room} places of a launch')
        held += 1
        chunks = chunks_of(size, chunk_size)
        for chunk in range(chunks):
            blocks.append((t, chunk))
            tensor_ends = chunk == chunks - 1
            if len(blocks) == MAX_BLOCKS or (tensor_ends and (held == room or t == len(sizes) - 1)):
                yield blocks
                held, blocks = (0 if tensor_ends else 1), []


class AmpC(ModuleType):
    """Takes the place of the module ``amp_C`` in ``sys.modules``.

    Args:
        gpu (str): The device type that passes for CUDA: 'cpu', or 'meta', on which launches are
            counted and nothing is computed, or 'cuda', with which a CPU's tensors are refused.

    Attributes:
        launches (list[str]): Apex's own kernels in the order of their launches. Those that PyTorch
            launches to fill buffers with zeros are not among them.
    """

    def __init__(self, gpu: str = 'cpu') -> None:
        super().__init__('amp_C')
        self.gpu = gpu
        self.launches: list[str] = []

    def multi_tensor_l2norm(
        self,
        chunk_size: int,
        noop_flag: Tensor,
        tensor_lists: list[list[Tensor]],
        per_tensor: bool | None,
    ) -> tuple[Tensor, Tensor]:
        """The L2 norm of all tensors together, shape (1,), and those of each, or none of these.

        A sum that is not finite sets the flag; nothing ever reads or resets it.
        """
        sizes = [x.numel() for x in tensor_lists[0]]
        device = tensor_lists[0][0].device
        most = max(chunks_of(size, chunk_size) for size in sizes)
        of_blocks = torch.zeros(MAX_BLOCKS, device=device)
        of_chunks = torch.zeros(len(sizes) * most if per_tensor else 0, device=device)

        def sum_of_squares(block: int, t: int, chunk: int, x: Tensor) -> None:
            total = x.float().square().sum()
            noop_flag.masked_fill_(~total.isfinite(), 1)
            of_blocks[block] += total
            if per_tensor:
                of_chunks[t * most + chunk] = total

        dtypes = (torch.float32, torch.float16, torch.bfloat16)
        self._launch('l2norm', dtypes, chunk_size, tensor_lists, sum_of_squares)
        self.launches.append('cleanup')
        norms = of_chunks.view(-1, most).sum(1).sqrt() if most else of_chunks.new_zeros(len(sizes))
        return of_blocks.sum().sqrt().reshape(1), norms

    def multi_tensor_lamb(
        self,
        chunk_size: int,
        noop_flag: Tensor,
        tensor_lists: list[list[Tensor]],
        lr: float,
        beta1: float,
        beta2: float,
        epsilon: float,
        step: int,
        bias_correction: int,
        weight_decay: float,
        grad_averaging: int,
        mode: int,
        global_grad_norm: Tensor,
        max_grad_norm: float,
        use_nvlamb: bool | None,
    ) -> None:
        """One update of gradients, parameters and moments; it is left in the gradients too.

        ``mode`` 0 adds the decay to the gradient, 1 to the update.
        """
        lr, eps, decay = c_float(lr), c_float(epsilon), c_float(weight_decay)
        beta1, beta2, bound = c_float(beta1), c_float(beta2), c_float(max_grad_norm)
        step, mode = c_int(step), c_int(mode)
        bc1 = bc2 = beta3 = 1.0
        if c_int(bias_correction) == 1:
            bc1, bc2 = c_float(1 - beta1**step), c_float(1 - beta2**step)
        if c_int(grad_averaging) == 1:
            beta3 = c_float(1 - beta1)
        one_minus_beta2 = c_float(1 - beta2)

        def stage_1(block: int, t: int, chunk: int, g: Tensor, p: Tensor, m: Tensor, v: Tensor):
            G = global_grad_norm[0]
            r_g = g.float() / torch.where(G > bound, G / bound, 1.0)
            r_p = p.float() if decay != 0 else torch.zeros_like(r_g)
            if mode == 0:
                r_g = r_g + decay * r_p
            r_m = m.float() * beta1 + beta3 * r_g
            r_v = v.float() * beta2 + one_minus_beta2 * r_g * r_g
            u = (r_m / bc1) / ((r_v / bc2).sqrt() + eps)
            if mode != 0:
                u = u + decay * r_p
            for memory, result in ((g, u), (m, r_m), (v, r_v)):
                memory.copy_(result)

        def stage_2(block: int, t: int, chunk: int, u: Tensor, p: Tensor) -> None:
            ratio = lr
            if use_nvlamb or decay != 0:
                p_norm, u_norm = p_norms[t], u_norms[t]
                usable = (u_norm != 0) & (p_norm != 0)
                ratio = torch.where(usable, lr * (p_norm / u_norm), lr)
            p.copy_(p.float() - ratio * u.float())

        dtypes = (torch.float32, torch.float16)
        g, p, _, _ = tensor_lists
        _, p_norms = self.multi_tensor_l2norm(chunk_size, noop_flag, [p], True)
        self._launch('stage 1', dtypes, chunk_size, tensor_lists, stage_1)
        _, u_norms = self.multi_tensor_l2norm(chunk_size, noop_flag, [g], True)
        self._launch('stage 2', dtypes, chunk_size, [g, p], stage_2)

    def _launch(
        self,
        name: str,
        dtypes: tuple[torch.dtype, ...],
        chunk_size: int,
        tensor_lists: list[list[Tensor]],
        kernel: Callable[..., None],
    ) -> None:
        """Call a kernel with the block, tensor, chunk, and the chunk of each list's tensor."""
        first = tensor_lists[0]
        if first[0].dtype not in dtypes:
            raise RuntimeError(f'"{name}" not implemented for {first[0].dtype}')
        if first[0].device.type != self.gpu:
            raise RuntimeError('expected input to be on cuda')
        for tensors in tensor_lists:
            if len(tensors) != len(first):
                raise RuntimeError('Size mismatch among tensor lists')
            for x, y in zip(tensors, first, strict=True):
                if not is_dense(x):
                    raise RuntimeError('A tensor was not contiguous.')
                if x.device != first[0].device:
                    raise RuntimeError('A tensor was not on the same device as the first tensor')
                if x.numel() != y.numel():
                    raise RuntimeError('Size mismatch')
        memory = [[in_memory(x, first[0].dtype) for x in tensors] for tensors in tensor_lists]
        for blocks in plan_launches([x.numel() for x in first], len(tensor_lists), chunk_size):
            self.launches.append(name)
            if self.gpu == 'meta':
                continue
            for block, (t, chunk) in enumerate(blocks):
                of_chunk = slice(chunk * chunk_size, (chunk + 1) * chunk_size)
                kernel(block, t, chunk, *(tensors[t][of_chunk] for tensors in memory))


def is_dense(x: Tensor) -> bool:
    """Return True if a tensor is contiguous in a memory format that Apex accepts."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.is_contiguous() or (
        x.dim() in formats and x.is_contiguous(memory_format=formats[x.dim()])
    )


def in_memory(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As many elements as the tensor has, from its address on, whatever it is itself.

    A kernel takes the dtype of the first tensor of the first list for that of all. Of a narrower
    tensor fewer elements come back, and the kernel fails where on a GPU it reads past the end.
    """
    flat = x.as_strided((x.numel(),), (1,))
    return flat if x.dtype == dtype else flat.view(torch.uint8).view(dtype)[: x.numel()]


def c_float(value: Any) -> float:
    """A number as a C++ function gets it in a ``float``; a TypeError if it is none, as None."""
    return float(np.float32(float(value)))


def c_int(value: Any) -> int:
    """A number as a C++ function gets it in an ``int``; pybind takes no Python float for one."""
    if isinstance(value, float):
        raise TypeError(f'incompatible function arguments: {value} for an int')
    return int(value)
