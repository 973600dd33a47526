"""A GPU without values: tensors of PyTorch's FakeTensorMode on ``cuda:0``, real ones on the CPU."""

import ctypes
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# c10::DeviceType in torch/csrc's headers.
CUDA, META, DEVICE_TYPES = 1, 14, 22


class MixedDevices(RuntimeError):
    """Tensors of a list are not all on one device."""


class FakeCuda(TorchDispatchMode):
    """Run operators on a GPU that is not there.

    Shapes, dtypes and devices are right; there are no values. An operator on tensors of several
    devices raises. So does a read by the host, unless it is given an answer. Tensors of the CPU are
    real.

    Args:
        answer (float, optional): What the host reads, in every element. None raises
            DataDependentOutputException. Defaults to None.

    Attributes:
        reads (list[str]): The operators by which the host read, in their order.
        operators (int): Number of operators on the GPU.
    """

    def __init__(self, answer: float | None = None) -> None:
        super().__init__()
        self.answer, self.reads, self.operators = answer, [], 0
        self.contexts = ExitStack()

    def __enter__(self):
        # On a GPU `tolist` is one copy; a fake tensor's reads each element.
        lists = patch.object(FakeTensor, 'tolist', lambda x: x.cpu().tolist())
        for context in (lists, device_guard(), FakeTensorMode(allow_non_fake_inputs=True)):
            self.contexts.enter_context(context)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.contexts.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_gpu = [isinstance(x, FakeTensor) for x in tensors]
        target = kwargs.get('device')
        if not any(on_gpu) and (target is None or torch.device(target).type != 'cuda'):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if self._is_read(func, args, target):
            return self._read(func, args, kwargs)
        self.operators += 1
        name = func.overloadpacket.__name__
        if name.startswith(('_foreach_', '_fused_')) and not all(on_gpu):
            raise MixedDevices(f'{func}: {[str(x.device) for x in tensors]}')
        if func.overloadpacket is aten._fused_sgd_:
            return None  # It has no kernel for tensors without values.
        return func(*args, **kwargs)

    def _is_read(self, func, args, target) -> bool:
        if func.overloadpacket is aten.copy_:
            return not isinstance(args[0], FakeTensor)
        to_host = target is not None and torch.device(target).type == 'cpu'
        return to_host or func.overloadpacket is aten._local_scalar_dense

    def _read(self, func, args, kwargs):
        self.reads.append(str(func))
        if self.answer is None:
            raise DataDependentOutputException(func)
        with unset_fake_temporarily():
            if func.overloadpacket is aten.copy_:
                return args[0].fill_(self.answer)
            (source, *_), dtype = args, kwargs.get('dtype')
            answer = torch.full(source.shape, self.answer, dtype=dtype or source.dtype)
            return answer.item() if func.overloadpacket is aten._local_scalar_dense else answer


@contextmanager
def device_guard():
    """Let PyTorch's CPU build change to a CUDA device: nothing happens then.

    FakeTensorMode does so itself in a CUDA build without a GPU. A CPU build has no guard: indexing,
    ``~``, ``copy_`` and autograd fail on fake CUDA tensors there.
    """
    if torch.cuda._is_compiled():
        yield
        return
    library = ctypes.CDLL(str(Path(torch.__file__).with_name('lib') / 'libc10.so'))
    symbol = '_ZN3c104impl26device_guard_impl_registryE'
    guards = (ctypes.c_void_p * DEVICE_TYPES).in_dll(library, symbol)
    before, guards[CUDA] = guards[CUDA], guards[META]
    try:
        yield
    finally:
        guards[CUDA] = before
