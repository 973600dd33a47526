"""Mixed precision and loss scaling on a CPU."""

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper


class CPUAmp(AmpOptimWrapper):
    """MMEngine's wrapper in all but its constructor, which insists on a GPU."""

    def __init__(self, init_scale=2.0**10, dtype=torch.bfloat16, **kwargs):
        OptimWrapper.__init__(self, **kwargs)
        self._scale_update_param = None
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=init_scale)
        self.cast_dtype = dtype
