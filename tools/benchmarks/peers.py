"""The optimizers that optimizers.py compares: this project's and those of other packages.

All get the same groups, and options that make the same update where the package has them: LAMB
clips the global gradient norm at 1 and scales the tensors with weight decay alone; LARS and SGD
have a momentum of 0.9. pytorch_optimizer differs: its `Lamb` has no bias correction, scales every
tensor and bounds ||p|| at 10; its `LARS` selects the tensors that it scales by their shape.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec, module_from_spec
from typing import Any

from torch.optim import Optimizer

from mmdet_largebatch.optimizers.apex_lamb import ApexUnfit, find_fused_lamb

# Minimum bytes that a step moves per parameter: 4 for every fp32 value read or written, where a
# tensor does not fit in the cache, so that a value needed again after the tensor's norm is known
# is read again. p parameter, g gradient, m and v moments, u LAMB's update, b momentum buffer.
#   SGD      read p, g, b; write p, b                                                            20
#   AdamW    read p, g, m, v; write p, m, v                                                      28
#   LARS     read p, g for their norms; then as SGD                                              28
#   LAMB     read p, g, m, v; write m, v, u, and their norms are known; read p, u; write p       40
#   clipped  read g for the global norm; then as LAMB                                            44
# A tensor without weight decay needs no norms of its own; in detectors these have few elements.
SGD, ADAMW, LARS, LAMB, CLIPPED = 20, 28, 28, 40, 44


class Unavailable(Exception):
    """The reason why an optimizer cannot take part, one line without a full stop."""


@dataclass(frozen=True, eq=False)
class Entry:
    """An optimizer, the minimum bytes of its step, its options, and the entry to compare with."""

    name: str
    module: str
    attribute: str
    least_bytes: int
    options: dict[str, Any] = field(default_factory=dict)
    beside: str | None = None

    @property
    def package(self) -> str:
        """The package that has to be installed."""
        return self.module.partition('.')[0]

    @property
    def ours(self) -> bool:
        """True for this project's optimizers."""
        return self.package == 'mmdet_largebatch'

    def load(self, device: str) -> type[Optimizer]:
        """Import the class; raise Unavailable if it is not installed or not for the device."""
        if self.package == 'apex':
            if device != 'cuda':
                raise Unavailable('runs on CUDA alone')
            try:
                return find_fused_lamb()
            except ApexUnfit as unfit:
                raise Unavailable(str(unfit)) from unfit
        if find_spec(self.package) is None:
            raise Unavailable(f'{self.package} is not installed')
        try:
            with bare_packages(self.module):
                return getattr(importlib.import_module(self.module), self.attribute)
        except (ImportError, AttributeError) as error:
            raise Unavailable(str(error).splitlines()[0]) from error


_OURS, _POFO = 'mmdet_largebatch.optimizers', 'pytorch_optimizer.optimizer'
_MMPRETRAIN = 'mmpretrain.engine.optimizers.lars'
_MOMENTUM = dict(momentum=0.9)
# On a GPU the other backend is Apex, which has an entry of its own.
_CLIP, _NO_CLIP = dict(backend='torch'), dict(backend='torch', max_grad_norm=None)
# Decay is added to the update, as by adam_w_mode; pre_norm is the clip.
_POFO_LAMB = dict(weight_decouple=False, pre_norm=True)

ENTRIES = (
    Entry('LAMB', _OURS, 'LAMB', CLIPPED, _CLIP, 'timm-Lamb'),
    Entry('timm-Lamb', 'timm.optim.lamb', 'Lamb', CLIPPED),
    Entry('pytorch_optimizer-Lamb', f'{_POFO}.lamb', 'Lamb', CLIPPED, _POFO_LAMB, 'timm-Lamb'),
    Entry('Apex-FusedLAMB', 'apex.optimizers', 'FusedLAMB', CLIPPED, {}, 'timm-Lamb'),
    Entry('LAMB-noclip', _OURS, 'LAMB', LAMB, _NO_CLIP, 'timm-Lamb-noclip'),
    Entry('timm-Lamb-noclip', 'timm.optim.lamb', 'Lamb', LAMB, dict(max_grad_norm=None)),
    Entry('LARS', _OURS, 'LARS', LARS, _MOMENTUM, 'timm-Lars'),
    Entry('timm-Lars', 'timm.optim.lars', 'Lars', LARS, _MOMENTUM),
    Entry('mmpretrain-LARS', _MMPRETRAIN, 'LARS', LARS, _MOMENTUM, 'timm-Lars'),
    Entry('pytorch_optimizer-LARS', f'{_POFO}.lars', 'LARS', LARS, _MOMENTUM, 'timm-Lars'),
    Entry('torch-AdamW-fused', 'torch.optim', 'AdamW', ADAMW, dict(fused=True)),
    Entry('torch-SGD', 'torch.optim', 'SGD', SGD, _MOMENTUM),
)


@contextmanager
def bare_packages(module: str) -> Iterator[None]:
    """Import a module without running its parent packages, such as timm's, which needs torchvision.

    Packages that were imported before stay, and the others can be imported whole afterwards.
    """
    parts, bare = module.split('.'), []
    try:
        for depth in range(1, len(parts)):
            package = '.'.join(parts[:depth])
            if package not in sys.modules:
                spec = find_spec(package)
                if spec is None:
                    raise ModuleNotFoundError(f'No module named {package!r}', name=package)
                sys.modules[package] = module_from_spec(spec)
                bare.append(package)
        yield
    finally:
        for package in bare:
            del sys.modules[package]


def versions(entries: list[Entry]) -> dict[str, str]:
    """Return the installed versions of other people's packages, torch's excepted."""
    names = packages_distributions()
    packages = {entry.package for entry in entries if not entry.ours} - {'torch'}
    return {package: version(names[package][0]) for package in sorted(packages & names.keys())}
