"""The batches that stock MMEngine and mmdet deal to each rank, on several processes."""

import json
from functools import partial

import torch.distributed as dist
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler

from helpers.forked import run_ranks
from helpers.pictures import Pictures


def write_batches(out, seed, epoch, batch_size):
    sampler = DefaultSampler(Pictures(), shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(AspectRatioBatchSampler(sampler, batch_size))
    with open(f'{out}.{dist.get_rank()}.json', 'w') as file:
        json.dump(batches, file)


def main(out, ranks, *words):
    run_ranks(partial(write_batches, out, *words), ranks)
