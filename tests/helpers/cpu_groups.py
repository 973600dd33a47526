"""The CPU process group of 2 ranks, as it is created."""

import os
from datetime import timedelta
from functools import partial

import torch

from helpers.forked import run_ranks
from mmdet_largebatch.utils.dist import cpu_group


def _timeout(expected):
    backend = cpu_group()._get_backend(torch.device('cpu'))
    assert backend.options._timeout == timedelta(seconds=expected)


def timeout(configured, expected):
    run_ranks(partial(_timeout, expected), 2, timeout=timedelta(seconds=configured))


def _wrong_interface():
    # Only now: the group of the gradients is there, as with NCCL.
    os.environ['GLOO_SOCKET_IFNAME'] = 'no_such_interface'
    cpu_group()


def wrong_interface():
    run_ranks(_wrong_interface, 2)
