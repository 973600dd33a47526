"""Every form in which MMEngine's configs name a type."""

import pytest
import torch
from mmengine.config import Config

from mmdet_largebatch.utils.type_names import type_name


@pytest.mark.parametrize(
    ('config', 'name'),
    [
        (dict(type='SGD'), 'SGD'),
        (dict(type='torch.optim.SGD'), 'SGD'),
        (dict(type='mmdet.CocoDataset'), 'CocoDataset'),
        (dict(type=torch.optim.SGD), 'SGD'),
        (torch.optim.SGD, 'SGD'),
        ('mmdet.SGD', 'SGD'),
        (dict(lr=1), ''),
        (None, ''),
    ],
)
def test_name(config, name):
    assert type_name(config) == name


def test_pure_python_config(tmp_path):
    """MMEngine reads such a file lazily: its imports are objects that stand for the classes."""
    path = tmp_path / 'config.py'
    path.write_text(
        'from mmengine.config import read_base\nfrom torch.optim import SGD\n\n'
        'optim_wrapper = dict(optimizer=dict(type=SGD, lr=0.1))\n'
    )
    cfg = Config.fromfile(path)
    assert type_name(cfg.optim_wrapper.optimizer) == 'SGD'
    assert type_name(cfg.to_dict()['optim_wrapper']['optimizer']) == 'SGD'
