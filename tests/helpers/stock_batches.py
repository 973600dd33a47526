"""Run by a test on several processes: the batches that stock MMEngine and mmdet deal to each rank.

PYTHONPATH=tests python -m helpers.stock_batches OUT RANKS SEED EPOCH BATCH_SIZE
"""

import json
import sys

import torch.distributed as dist
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler

from helpers.forked import run_ranks
from helpers.pictures import Pictures


def write_batches():
    out, _, seed, epoch, batch_size = sys.argv[1], *map(int, sys.argv[2:])
    sampler = DefaultSampler(Pictures(), shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(AspectRatioBatchSampler(sampler, batch_size))
    with open(f'{out}.{dist.get_rank()}.json', 'w') as file:
        json.dump(batches, file)


if __name__ == '__main__':
    run_ranks(write_batches, int(sys.argv[2]))
