"""A training under tools/dist_train.sh that is watched while it runs."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import psutil
import torch

from helpers.common import EVERY_PROPOSAL, ROOT, data_options

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'

# 20 pictures, 5 updates an epoch; 4 evaluations of one picture on each of 2 ranks.
OPTIONS = [
    *(f'{key}={value}'.replace(' ', '') for key, value in EVERY_PROPOSAL.items()),
    'train_dataloader.batch_size=2',
    'train_cfg.global_batch_size=4',
    'val_dataloader.batch_size=1',
    'default_hooks.logger.interval=1',
    'default_hooks.lr.warmup_iters=2',
    'optim_wrapper.optimizer.lr=0.001',
]


class Launched:
    """The running command; its output is read line by line, as it is written."""

    def __init__(self, shapes, work, ranks, *options, arguments=(), **environment):
        words = ['tools/dist_train.sh', RECIPE, ranks, '--work-dir', work, *arguments]
        words += ['--cfg-options', *data_options(shapes), *OPTIONS, *options]
        self.process = subprocess.Popen(
            [str(word) for word in words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | dict(PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}')
            | {name: str(value) for name, value in environment.items()},
        )
        self.lines, self._queue = [], Queue()
        Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, pattern, timeout=1800):
        """Wait until a line has it; all lines up to that one are in `lines`."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            try:
                line = self._queue.get(timeout=1)
            except Empty:
                continue
            if line is None:
                break
            self.lines.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(f'no {pattern} in\n' + self.text[-6000:])

    def send_to_all(self, number):
        """Signal every process of this machine at once: launcher, ranks and data workers."""
        launcher = psutil.Process(self.process.pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            process.send_signal(number)

    def finish(self, timeout=1800):
        """Wait for the end; give back the exit status."""
        status = self.process.wait(timeout)
        while (line := self._queue.get(timeout=timeout)) is not None:
            self.lines.append(line)
        return status

    @property
    def text(self):
        return ''.join(self.lines)

    @property
    def updates(self):
        """(epoch, update of the epoch) of each one that was logged."""
        found = re.findall(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/', self.text)
        return [(int(epoch), int(update)) for epoch, update in found]


def vector(path):
    weights = torch.load(path, weights_only=False)['state_dict'].values()
    return torch.cat([weight.double().flatten() for weight in weights])


def wait_for_port(port, timeout=1800):
    """Wait until someone listens on the loopback."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex(('127.0.0.1', port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f'no one listens on port {port}')


def that_logs(*runs, timeout=1800):
    """The run in whose output the log of rank 0 stands, once the training has begun."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for run in runs:
            while not run._queue.empty():
                run.lines.append(run._queue.get() or '')
                if 'updates an epoch' in run.lines[-1]:
                    return run
        time.sleep(0.1)
    raise AssertionError('no training began in\n' + '\n'.join(run.text[-3000:] for run in runs))
