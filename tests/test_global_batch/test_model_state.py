"""What a forward pass may change is as before after a restore, in the same objects."""

from collections import Counter, deque
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from mmdet_largebatch.global_batch.model_state import ModelState


class Assigner:
    """A plain object that a module holds."""

    def __init__(self):
        self.calls = 0


class Busy(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm1d(3)
        self.assigner = Assigner()
        self.count, self.history, self.last = 0, [torch.zeros(2)], deque(maxlen=2)
        self.seen, self.names, self.sums = {'a': [1]}, {'x'}, np.zeros(2)
        self.counter = Counter(a=2)
        self.replaced = torch.ones(2)
        self.view = torch.ones(1).expand(3)

    def forward(self, x):
        self.count += 1
        self.assigner.calls += 1
        self.history[0] += 1
        self.history.append(x.mean())
        self.last.append(x.mean())
        self.seen['a'].append(2)
        self.seen['b'] = []
        self.names.add('y')
        self.sums += 1
        self.counter['a'] += 1
        self.replaced = self.replaced * 2
        self.new = 1
        return self.bn(x)


def as_numbers(module):
    state = {key: value.tolist() for key, value in module.state_dict().items()}
    plain = {key: deepcopy(value) for key, value in vars(module).items() if not key.startswith('_')}
    plain['assigner'] = module.assigner.calls
    return repr([state, plain])


def test_everything_is_put_back_in_place():
    model = Busy()
    model(torch.randn(4, 3))
    held = model.history, model.seen['a'], model.bn.running_mean, model.sums
    before = as_numbers(model)
    state = ModelState(model)
    for _ in range(2):
        state.save()
        model(torch.randn(4, 3))
        model.unlike = 1
        assert as_numbers(model) != before
        state.restore()
        assert as_numbers(model) == before
        assert not hasattr(model, 'unlike')
    after = model.history, model.seen['a'], model.bn.running_mean, model.sums
    assert all(one is other for one, other in zip(held, after, strict=True))
    # Autograd goes through a layer whose statistics were put back.
    model(torch.randn(4, 3)).sum().backward()
