"""Compare what trainings left, to the last bit."""

import torch


def tensors(value, path=''):
    """Every tensor and number of nested dicts and sequences, by its path."""
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, item in items for k, v in tensors(item, f'{path}/{key}').items()}
    return {path: value}


def assert_same_bits(mine, theirs):
    """Equal to the last bit."""
    mine, theirs = tensors(mine), tensors(theirs)
    assert mine.keys() == theirs.keys() and mine
    for path, value in mine.items():
        same = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
        assert same(value, theirs[path]), path
