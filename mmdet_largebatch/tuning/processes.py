"""Run and stop training processes, several at a time."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

from ..errors import SettingError
from .training_job import TrainingJob

POLL_SECONDS = 0.2


class Stopped(Exception):
    """Raised after a signal, once the trainings have exited.

    Args:
        signum (int): Signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def run_jobs(
    trainings: Sequence[TrainingJob],
    gpus: int,
    jobs: int,
    lock: int,
    ended: Callable[[TrainingJob, int], None],
) -> None:
    """Run trainings, several at a time, each from its newest checkpoint.

    On Ctrl-C or SIGTERM the running trainings save and exit. A second signal does not wait for
    them.

    Args:
        trainings (Sequence[TrainingJob]): Trainings, with their configs written.
        gpus (int): Ranks of one training.
        jobs (int): Trainings at a time. Each has its own GPUs.
        lock (int): File descriptor that every process keeps open.
        ended (Callable[[TrainingJob, int], None]): Called after each training with its exit code.

    Raises:
        SettingError: If there are too few GPUs.
        Stopped: If a signal was received.
    """
    devices = _devices(gpus, jobs)
    waiting = deque(trainings)
    running: dict[int, tuple[TrainingJob, subprocess.Popen]] = {}
    signals: list[int] = []
    handlers = {
        signum: signal.signal(signum, lambda signum, frame: signals.append(signum))
        for signum in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while (waiting or running) and not signals:
            for slot in range(jobs):
                if waiting and slot not in running:
                    job = waiting.popleft()
                    running[slot] = job, _start(job, gpus, jobs, devices[slot], lock)
            time.sleep(POLL_SECONDS)
            for slot, (job, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    ended(job, process.returncode)
    finally:
        _terminate([process for _, process in running.values()], signals)
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    if signals:
        raise Stopped(signals[0])


def _terminate(processes: list[subprocess.Popen], signals: list[int]) -> None:
    """Let the processes save and exit; stop waiting at a second signal."""
    for process in processes:
        process.terminate()
    while any(process.poll() is None for process in processes) and len(signals) < 2:
        time.sleep(POLL_SECONDS)


def _devices(gpus: int, jobs: int) -> list[dict[str, str]]:
    """Return the environment variables that give each job its GPUs."""
    count = torch.cuda.device_count()
    if not count:
        return [{}] * jobs
    if count < gpus * jobs:
        raise SettingError(
            f'--jobs {jobs} of --gpus {gpus} need {jobs * gpus} GPUs and {count} are visible. '
            f'Must be at most {count // gpus} jobs.'
        )
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    names = visible.split(',') if visible else list(map(str, range(count)))
    return [
        dict(CUDA_VISIBLE_DEVICES=','.join(names[job * gpus : (job + 1) * gpus]))
        for job in range(jobs)
    ]


def _start(
    job: TrainingJob, gpus: int, jobs: int, devices: dict[str, str], lock: int
) -> subprocess.Popen:
    words: list[str] = job.arguments
    environment = dict(os.environ, **devices)
    if gpus == 1:
        words = ['mmdet_largebatch.cli.train', *words]
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment.setdefault('OMP_NUM_THREADS', str(threads))
    else:
        words = ['mmdet_largebatch.cli.torchrun', 'train.py', words[0], str(gpus), *words[1:]]
        environment['PORT'] = str(_free_port())
    job.folder.mkdir(parents=True, exist_ok=True)
    with open(job.output, 'ab') as output:
        # In its own session, so that Ctrl-C reaches the tool alone.
        return subprocess.Popen(
            [sys.executable, '-m', *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
            env=environment,
        )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]
