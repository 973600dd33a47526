"""The newest valid checkpoint is found by reading the files, not by their names."""

import os

import pytest
import torch

from mmdet_largebatch.checkpoints import checkpoint_defect, newest_checkpoint


def save(path, update, saved_at, **parts):
    content = dict(
        meta=dict(iter=update, epoch=0, saved_at=saved_at),
        message_hub={},
        state_dict=dict(w=torch.arange(1000.0)),
    )
    torch.save(content | parts, path)
    return path


def flip_a_bit(path):
    """Flip a bit of the tensor, which PyTorch loads without an error."""
    content = bytearray(path.read_bytes())
    at = content.index(torch.arange(500.0, 504.0).numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert torch.load(path)['state_dict']['w'].ne(torch.arange(1000.0)).sum() == 1


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b'')


def other(path):
    path.write_bytes(b'not a checkpoint')


BROKEN = [
    (truncate, 'it cannot be read'),
    (empty, 'it is empty'),
    (flip_a_bit, 'is damaged: the checksum differs'),
    (other, 'it cannot be read'),
]


@pytest.mark.parametrize(('damage', 'words'), BROKEN)
def test_a_broken_checkpoint_is_skipped_and_named(tmp_path, damage, words):
    good = save(tmp_path / 'epoch_1.pth', 10, saved_at=1)
    broken = save(tmp_path / 'epoch_2.pth', 20, saved_at=2)
    assert newest_checkpoint([tmp_path]) == (str(broken), [])
    damage(broken)
    path, skipped = newest_checkpoint([tmp_path])
    assert path == str(good)
    assert len(skipped) == 1
    assert skipped[0].startswith(f'{broken}: ') and words in skipped[0]
    assert words in checkpoint_defect(broken)
    assert checkpoint_defect(good) is None


def test_none_is_valid(tmp_path):
    for number in (1, 2):
        empty(save(tmp_path / f'epoch_{number}.pth', number, saved_at=number))
    path, skipped = newest_checkpoint([tmp_path])
    assert path is None and len(skipped) == 2
    assert newest_checkpoint([tmp_path / 'nowhere']) == (None, [])


def test_the_time_of_saving_counts_not_the_name_nor_the_times_of_a_copy(tmp_path):
    newest = save(tmp_path / 'restart_15.pth', 15, saved_at=3)
    for name, saved_at in {'epoch_9.pth': 1, 'iter_99.pth': 2}.items():
        os.utime(save(tmp_path / name, 99, saved_at=saved_at), (2e9, 2e9))
    assert newest_checkpoint([tmp_path]) == (str(newest), [])


def test_what_holds_no_training_is_left_out(tmp_path):
    save(tmp_path / 'best_coco_bbox_mAP_epoch_2.pth', 20, saved_at=9)
    torch.save(dict(state_dict={}), tmp_path / 'published.pth')
    assert newest_checkpoint([tmp_path]) == (None, [])


def test_the_format_before_zip_is_read_too(tmp_path):
    path = save(tmp_path / 'old.pth', 1, saved_at=1)
    content = torch.load(path, weights_only=False)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert newest_checkpoint([tmp_path]) == (str(path), [])
    truncate(path)
    assert newest_checkpoint([tmp_path])[0] is None
