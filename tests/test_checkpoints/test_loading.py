"""MMEngine's loader of local files, once the package is imported."""

from pickle import UnpicklingError

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

import mmdet_largebatch  # noqa: F401


def test_a_trainings_objects(tmp_path):
    """`torch.load` refuses the buffer, which is MMEngine's."""
    path = tmp_path / 'epoch_1.pth'
    info = dict(losses=HistoryBuffer([3.0, 2.0], [1, 1]))
    torch.save(dict(state_dict=dict(w=torch.arange(3.0)), message_hub=info), path)
    with pytest.raises(UnpicklingError, match='weights_only'):
        torch.load(path)
    loaded = CheckpointLoader.load_checkpoint(str(path), map_location='meta')
    assert loaded['message_hub']['losses'].data[0].tolist() == [3.0, 2.0]
    assert loaded['message_hub']['losses'].mean() == np.mean([3.0, 2.0])
    assert loaded['state_dict']['w'].device.type == 'meta'


def test_weights_and_a_path_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(dict(w=torch.arange(3.0)), tmp_path / 'weights.pth')
    torch.save(dict(w=torch.arange(3.0), note=HistoryBuffer([1.0], [1])), tmp_path / 'more.pth')
    for name in ('weights.pth', 'more.pth'):
        assert CheckpointLoader.load_checkpoint(f'~/{name}')['w'].tolist() == [0.0, 1.0, 2.0]


def test_a_file_that_is_not_there_or_not_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.pth can not be found'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'none.pth'))
    (tmp_path / 'text.pth').write_bytes(b'not a checkpoint')
    with pytest.raises(UnpicklingError):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'text.pth'))
