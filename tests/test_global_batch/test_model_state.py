"""State of a model around a forward pass: restored in the same objects, and named if it changed."""

from collections import Counter, deque
from copy import deepcopy

import numpy as np
import pytest
import torch
from helpers.detectors import DETECTORS, detector
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.registry import init_default_scope
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


def test_what_a_forward_pass_changes_is_named():
    """Of the layer of batch norm nothing: its statistics are taken care of."""
    model = Busy()
    state = ModelState(model)
    model(torch.randn(4, 3))
    before = state.contents()
    model(torch.randn(4, 3))
    changed = ['count', 'history', 'last', 'seen', 'sums', 'counter', 'replaced']
    assert state.changed(before) == [f'Busy.{name}' for name in changed] + ['assigner.calls']
    assert state.changed(state.contents()) == []


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('table', torch.zeros(2))
        self.register_buffer('constant', torch.ones(2))

    def forward(self, x):
        self.table = self.table + x
        return x


def test_a_buffer_of_an_inner_module_is_named_by_its_path():
    model = nn.Sequential(nn.Linear(2, 2), Buffers())
    state = ModelState(model)
    before = state.contents()
    model(torch.randn(2))
    assert state.changed(before) == ['1.table']


@pytest.mark.parametrize('name', DETECTORS)
def test_no_detector_of_the_table_has_such_state(name):
    """Those that docs/global_batch.md says are equal on any number of ranks."""
    init_default_scope('mmdet')
    model = MODELS.build(detector(name)).train()
    # Deformable DETR leaves a parameter to it, which would be what the memory held.
    model.init_weights()
    state = ModelState(model)
    inputs = demo_mm_inputs(2, [(3, 64, 64)] * 2, num_items=[2, 2], num_classes=3, with_mask=True)
    data = model.data_preprocessor(inputs, True)
    model(**data, mode='loss')
    before = state.contents()
    model(**data, mode='loss')
    assert state.changed(before) == []


def test_the_history_of_dynamic_r_cnn_is_named():
    init_default_scope('mmdet')
    cfg = detector('cascade_rcnn')
    head = cfg.roi_head
    head.update(type='DynamicRoIHead', bbox_head=head.bbox_head[0])
    del head.num_stages, head.stage_loss_weights
    cfg.train_cfg.rcnn = cfg.train_cfg.rcnn[0]
    cfg.train_cfg.rcnn.dynamic_rcnn = dict(
        iou_topk=2, beta_topk=2, update_iter_interval=100, initial_iou=0.4, initial_beta=1.0
    )
    cfg.type = 'FasterRCNN'
    head.bbox_head.loss_bbox = dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0)
    model = MODELS.build(cfg).train()
    state = ModelState(model)
    inputs = demo_mm_inputs(2, [(3, 64, 64)] * 2, num_items=[2, 2], num_classes=3)
    data = model.data_preprocessor(inputs, True)
    model(**data, mode='loss')
    before = state.contents()
    model(**data, mode='loss')
    assert state.changed(before) == ['roi_head.iou_history', 'roi_head.beta_history']
