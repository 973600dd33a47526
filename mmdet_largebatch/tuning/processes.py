"""Run the trainings of a sweep, several at a time, and stop them."""

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
from .trials import Trial

# Seconds between two looks at the processes.
PAUSE = 0.2


class Stopped(Exception):
    """A sweep received a signal, and has stopped its trainings.

    Args:
        number (int): The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def run_trials(
    trials: Sequence[Trial],
    gpus: int,
    jobs: int,
    lock: int,
    ended: Callable[[Trial, int], None],
) -> None:
    """Train, several trials at a time, each from its newest checkpoint if it has one.

    Ctrl-C and SIGTERM tell the running trainings to save and leave, and wait for them. A second
    one does not wait.

    Args:
        trials (Sequence[Trial]): The trials, their configs written.
        gpus (int): Ranks of one training.
        jobs (int): Trainings at a time. With GPUs each has ``gpus`` of its own.
        lock (int): A file descriptor that every training keeps open.
        ended (Callable[[Trial, int], None]): Called after each training, with its exit status.

    Raises:
        SettingError: If there are fewer GPUs than all of them need.
        Stopped: If it was told to stop.
    """
    devices = _devices(gpus, jobs)
    waiting = deque(trials)
    running: dict[int, tuple[Trial, subprocess.Popen]] = {}
    told: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: told.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        while (waiting or running) and not told:
            for slot in range(jobs):
                if waiting and slot not in running:
                    trial = waiting.popleft()
                    running[slot] = trial, _start(trial, gpus, jobs, devices[slot], lock)
            time.sleep(PAUSE)
            for slot, (trial, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    ended(trial, process.returncode)
    finally:
        _leave([process for _, process in running.values()], told)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if told:
        raise Stopped(told[0])


def _leave(processes: list[subprocess.Popen], told: list[int]) -> None:
    for process in processes:
        process.terminate()
    while any(process.poll() is None for process in processes) and len(told) < 2:
        time.sleep(PAUSE)


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
    trial: Trial, gpus: int, jobs: int, devices: dict[str, str], lock: int
) -> subprocess.Popen:
    words = [trial.config, '--work-dir', trial.folder, '--resume']
    environment = dict(os.environ, **devices)
    if gpus == 1:
        words = ['mmdet_largebatch.cli.train', *words]
        threads = max(1, (os.cpu_count() or 1) // jobs)
        environment.setdefault('OMP_NUM_THREADS', str(threads))
    else:
        words = ['mmdet_largebatch.cli.torchrun', 'train.py', words[0], gpus, *words[1:]]
        environment['PORT'] = str(_free_port())
    trial.folder.mkdir(parents=True, exist_ok=True)
    with open(trial.output, 'ab') as output:
        # In a session of its own, so that Ctrl-C comes to the sweep alone, which tells it.
        return subprocess.Popen(
            list(map(str, [sys.executable, '-m', *words])),
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
