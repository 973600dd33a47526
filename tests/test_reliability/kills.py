r"""Train on 2 processes, kill them again and again, and compare with a run that was never killed.

    PYTHONPATH=tests:tests/test_batching \
        python tests/test_reliability/kills.py [--kills 100] [--data data/shapes] [--out FOLDER]

Half of the kills (SIGKILL, to one rank and then the other) come at a random instant, the others
while a checkpoint is being written. Meanwhile the newest checkpoint is read again and again. Ends
with a summary; with status 1 if a weight differs or a checkpoint did not read.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from zipfile import ZipFile

import torch
from common import EVERY_PROPOSAL, ROOT, data_options
from forked import free_port, join_group
from mmengine.config import Config
from mmengine.runner import Runner

import mmdet_largebatch  # noqa: F401
from mmdet_largebatch.cli import use_gloo_without_gpu

RECIPE = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
RANKS = 2


def train(work, data, epochs):
    """What each rank does; a checkpoint after every update."""
    torch.set_num_threads(1)
    cfg = Config.fromfile(RECIPE)
    settings = dict(option.split('=') for option in data_options(Path(data)))
    cfg.merge_from_dict(settings | EVERY_PROPOSAL)
    cfg.merge_from_dict(
        {
            'work_dir': str(work),
            'launcher': 'pytorch',
            'resume': True,
            'model.train_cfg.rpn_proposal.max_per_img': 30,
            'train_dataloader.batch_size': 1,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset.indices': 8,
            'train_cfg.global_batch_size': 2,
            'train_cfg.max_epochs': epochs,
            'default_hooks.lr.warmup_iters': 4,
            'default_hooks.lr.milestones': [epochs * 2 // 3],
            'default_hooks.checkpoint': dict(by_epoch=False, interval=1, max_keep_ckpts=1),
            'val_cfg': None,
            'val_dataloader': None,
            'val_evaluator': None,
            'log_level': 'WARNING',
        }
    )
    use_gloo_without_gpu(cfg)
    Runner.from_cfg(cfg).train()


def _rank(rank, port, log, arguments):
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    join_group(rank, RANKS, port)
    train(*arguments)


class Watcher(Thread):
    """Reads the newest checkpoint again and again. Which that is, `last_checkpoint` says."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.reads, self.failures, self.stop = work, 0, [], Event()

    def run(self):
        while not self.stop.wait(0.02):
            if (self.work / 'last_checkpoint').exists():
                self.read()

    def read(self):
        """A file that was replaced between the two reads is looked up again."""
        for _ in range(5):
            path = (self.work / 'last_checkpoint').read_text()
            try:
                content = torch.load(path, map_location='cpu', weights_only=False)
                assert content['optimizer']['state'] and content['state_dict']
                self.reads += 1
                return
            except Exception as error:
                failure = f'{path}: {type(error).__name__}: {error}'
        self.failures.append(failure)


def checksums_hold(work):
    with ZipFile((work / 'last_checkpoint').read_text()) as file:
        return file.testzip() is None


def start(work, data, epochs):
    context = get_context('fork')
    arguments = (free_port(), work.with_suffix('.log'), (work, data, epochs))
    ranks = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    return ranks


def wait_for_instant(work, ranks, draw, in_a_save):
    """True if it came while the training ran; if asked for, in the middle of a save."""
    if not in_a_save:
        end = time.monotonic() + draw.uniform(0, 4)
        while time.monotonic() < end and all(process.is_alive() for process in ranks):
            time.sleep(0.01)
        return all(process.is_alive() for process in ranks)
    saves, seen = draw.randint(1, 3), False
    while all(process.is_alive() for process in ranks):
        found = any(work.glob('.*.partial'))
        saves -= found and not seen
        seen = found
        if saves == 0:
            time.sleep(draw.uniform(0, 0.01))
            return True
        time.sleep(0.0005)
    return False


def kill_and_compare(data, kills, epochs, out, seed=0):
    """Returns a summary: kills, how many left half a file, reads, weights that differ."""
    draw = random.Random(seed)
    whole, work = out / 'whole', out / 'killed'
    for process in start(whole, data, epochs):
        process.join()
    watcher = Watcher(work)
    watcher.start()
    done = dict(kills=0, in_a_save=0, left_half_a_file=0, checksums_held=0, kills_with_checkpoint=0)
    while done['kills'] < kills:
        partial = set(work.glob('.*.partial'))
        ranks = start(work, data, epochs)
        # Kills of the first kind leave few updates behind them; of the second, as many as saves.
        in_a_save = done['kills'] % 2 == 1
        if not wait_for_instant(work, ranks, draw, in_a_save):
            for process in ranks:
                process.join()
            break
        draw.shuffle(ranks)
        for process in ranks:
            os.kill(process.pid, signal.SIGKILL)
            time.sleep(draw.choice([0, 0, 0.2]))
        for process in ranks:
            process.join()
        done['kills'] += 1
        done['in_a_save'] += in_a_save
        done['left_half_a_file'] += bool(set(work.glob('.*.partial')) - partial)
        if (work / 'last_checkpoint').exists():
            done['kills_with_checkpoint'] += 1
            done['checksums_held'] += checksums_hold(work)
    for process in start(work, data, epochs):
        process.join()
    watcher.stop.set()
    watcher.join()
    a, b = (
        torch.load((folder / 'last_checkpoint').read_text(), weights_only=False)
        for folder in (whole, work)
    )
    different = [
        name for name in a['state_dict'] if not a['state_dict'][name].equal(b['state_dict'][name])
    ]
    return done | dict(
        updates=a['meta']['iter'],
        updates_of_the_killed=b['meta']['iter'],
        weights_that_differ=different,
        reads=watcher.reads,
        reads_that_failed=watcher.failures,
        half_files_left=[path.name for path in work.glob('.*.partial')],
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--epochs', type=int, help='of 4 updates; by default 2 a kill')
    parser.add_argument('--data', default='data/shapes')
    parser.add_argument('--out', type=Path, help='folder; by default a temporary one')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = (args.out or Path(folder)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        epochs = args.epochs or max(6, 2 * args.kills)
        summary = kill_and_compare(args.data, args.kills, epochs, out)
    print(json.dumps(summary, indent=1))
    same = not summary['weights_that_differ'] and summary['kills'] == args.kills
    sys.exit(not same or bool(summary['reads_that_failed']))


if __name__ == '__main__':
    main()
