r"""Kill processes of a training under tools/dist_train.sh, and compare with a run never killed.

    PYTHONPATH=tests python -m helpers.kills --kills 30

One command with MAX_RESTARTS trains on 2 ranks, another one on 3, and each takes half of the kills.
These go round the kinds below, in an order that is drawn anew each time. Meanwhile the newest
checkpoint is read again and again. Ends with a summary, and with status 1 if a weight differs, a
process is left, a checkpoint does not read, or a kill is not followed by a further update or
evaluation within 30 minutes.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from queue import Empty
from threading import Event, Thread
from zipfile import ZipFile

import psutil
import torch

from helpers.common import ROOT
from helpers.launched import Launched

KINDS = (
    'rank in training',
    'data worker in training',
    'rank in a save',
    'rank in an evaluation',
    'data worker in an evaluation',
    'SIGUSR1 to a rank',
    'all ranks',
    'rank as it comes up again',
)
TRAINING, EVALUATION = r'Epoch\(train\)\s+\[', r'Epoch\(val\)\s+\[\d+\]\[1/'
HANG = 1800


def options(ranks, epochs):
    """5 updates an epoch on 2 ranks and 3 on 3, and a checkpoint after each."""
    return [
        'train_dataloader.batch_size=1',
        f'train_cfg.global_batch_size={2 * ranks}',
        f'train_cfg.max_epochs={epochs}',
        'model.train_cfg.rpn_proposal.max_per_img=30',
        f'default_hooks.lr.milestones=[{epochs * 2 // 3}]',
        'default_hooks.checkpoint.by_epoch=False',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=2',
        'default_hooks.checkpoint.save_best=None',
        # Otherwise DDP rearranges its buckets after the first update of a process. On more than 2
        # ranks gloo then adds in another order, so that the last bits depend on restarts.
        f'find_unused_parameters={ranks > 2}',
    ]


class Watcher(Thread):
    """Reads the newest checkpoint again and again, checksums included."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self.work, self.reads, self.failures, self.stop = work, 0, [], Event()

    def run(self):
        while not self.stop.wait(0.2):
            if (self.work / 'last_checkpoint').exists():
                self.read()

    def read(self):
        """A file that was replaced between the two reads is looked up again."""
        for _ in range(5):
            path = (self.work / 'last_checkpoint').read_text()
            try:
                content = torch.load(path, map_location='cpu', weights_only=False)
                assert content['optimizer']['state'] and content['state_dict']
                with ZipFile(path) as file:
                    assert file.testzip() is None
                self.reads += 1
                return
            except Exception as error:
                failure = f'{path}: {type(error).__name__}: {error}'
        self.failures.append(failure)


class Processes:
    """All that was seen of a run's processes."""

    def __init__(self, launcher, work):
        self.launcher, self.work, self.seen = psutil.Process(launcher), work, set()

    def ranks(self):
        return [child for child in _children(self.launcher) if is_tool(child)]

    def workers(self):
        return [child for rank in self.ranks() for child in _children(rank) if is_tool(child)]

    def look(self):
        self.seen.update([self.launcher, *_children(self.launcher, recursive=True)])

    def left(self, timeout=HANG):
        """Names of those that are still there, and of any other that the work folder tells."""
        end = time.monotonic() + timeout
        while found := [*filter(_runs, self.seen), *with_word(str(self.work))]:
            if time.monotonic() > end:
                break
            time.sleep(0.2)
        return [str(process) for process in found]


def _children(process, recursive=False):
    try:
        return process.children(recursive)
    except psutil.NoSuchProcess:
        return []


# As torchrun starts them.
TOOLS = {'mmdet_largebatch.cli.train', 'mmdet_largebatch.cli.test'}


def is_tool(process):
    """Ranks, and the data workers that they fork; not what multiprocessing needs besides."""
    try:
        return not TOOLS.isdisjoint(process.cmdline())
    except psutil.Error:
        return False


def _runs(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def with_word(word):
    """Processes with a word in their command line, but for this one."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(word in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            pass
    return [process for process in found if _runs(process)]


def wait_until(condition, timeout=HANG):
    end = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f'not within {timeout} s: {condition}')
        time.sleep(0.0005)
    return found


def strike(run, processes, kind, draw):
    """Wait for the moment of a kind of kill, and kill."""
    number = signal.SIGUSR1 if kind.startswith('SIGUSR1') else signal.SIGKILL
    if kind.endswith('evaluation'):
        run.wait_for(EVALUATION, HANG)
    elif kind.endswith('save'):
        wait_until(lambda: any(processes.work.glob('.*.partial')))
        time.sleep(draw.uniform(0, 0.01))
    else:
        time.sleep(draw.uniform(0, 2))
    processes.look()
    if 'worker' in kind:
        victims = [draw.choice(processes.workers())]
    elif kind == 'all ranks':
        victims = draw.sample(processes.ranks(), len(processes.ranks()))
    else:
        victims = [draw.choice(processes.ranks())]
    for victim in victims:
        victim.send_signal(number)
    if kind.endswith('comes up again'):
        before = {process.pid for process in processes.seen}
        new = wait_until(lambda: [rank for rank in processes.ranks() if rank.pid not in before])
        time.sleep(draw.uniform(0, 8))
        draw.choice(new).send_signal(number)
    return number


def drain(run):
    """Take what was printed so far."""
    while True:
        try:
            line = run._queue.get(timeout=0.3)
        except Empty:
            return
        assert line is not None, 'it ended:\n' + run.text[-6000:]
        run.lines.append(line)


def killed_run(data, work, ranks, kinds, epochs, draw):
    """Train under one command, and kill once for each of the kinds."""
    run = Launched(data, work, ranks, *options(ranks, epochs), MAX_RESTARTS=3 * len(kinds))
    processes, watcher = Processes(run.process.pid, work), Watcher(work)
    watcher.start()
    resumed, left, seconds = Counter(), [], []
    try:
        run.wait_for(TRAINING, HANG)
        for kind in kinds:
            number = strike(run, processes, kind, draw)
            began, before = time.monotonic(), set(processes.seen) - {processes.launcher}
            if number == signal.SIGUSR1:
                run.wait_for(r'Preempted \(SIGUSR1 on rank', HANG)
            drain(run)
            # Logged by rank 0 at each start.
            run.wait_for('updates an epoch', HANG)
            run.wait_for(r'Epoch\((train|val)\)', HANG)
            seconds.append(time.monotonic() - began)
            resumed[kind] += 1
            left += [str(process) for process in before if _runs(process)]
            print(f'{ranks} ranks, {kind}: on again after {seconds[-1]:.0f} s', file=sys.stderr)
        processes.look()
        status = run.finish()
    except Exception:
        processes.look()
        for process in processes.seen:
            if _runs(process):
                process.kill()
        raise
    watcher.stop.set()
    watcher.join()
    assert status == 0, run.text[-6000:]
    return resumed, left + processes.left(), seconds, watcher


def kill_and_compare(data, out, ranks, kinds, seed=0, epochs=None):
    """Return a summary: kills, how many were resumed, processes left, weights that differ."""
    draw, epochs = random.Random(seed), epochs or 4 * len(kinds) + 2
    whole, work = out / f'whole_{ranks}', out / f'killed_{ranks}'
    resumed, left, seconds, watcher = killed_run(data, work, ranks, kinds, epochs, draw)
    run = Launched(data, whole, ranks, *options(ranks, epochs))
    assert run.finish() == 0, run.text[-6000:]
    a, b = (
        torch.load((folder / 'last_checkpoint').read_text(), weights_only=False)
        for folder in (whole, work)
    )
    different = [
        name for name in a['state_dict'] if not a['state_dict'][name].equal(b['state_dict'][name])
    ]
    return dict(
        ranks=ranks,
        kills=dict(Counter(kinds)),
        resumed=sum(resumed.values()),
        seconds_to_resume=[round(min(seconds)), round(max(seconds))],
        updates=a['meta']['iter'],
        updates_of_the_killed=b['meta']['iter'],
        weights_that_differ=different,
        processes_left=left,
        reads=watcher.reads,
        reads_that_failed=watcher.failures,
        half_files_left=[path.name for path in work.glob('.*.partial')],
    )


def is_good(summary):
    """True if a summary says what docs/reliability.md promises."""
    return (
        summary['resumed'] == sum(summary['kills'].values())
        and summary['updates'] == summary['updates_of_the_killed'] > 0
        and summary['reads'] > 0
        and not summary['weights_that_differ']
        and not summary['processes_left']
        and not summary['reads_that_failed']
        and not summary['half_files_left']
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=30)
    parser.add_argument('--ranks', type=int, nargs='+', default=[2, 3])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, help='folder; by default a temporary one')
    args = parser.parse_args()
    draw, summaries = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        out = (args.out or Path(folder)).resolve()
        data = out / 'shapes'
        words = [ROOT / 'tools/make_shapes.py', '--out', data, '--train', 20, '--val', 8]
        subprocess.run([sys.executable, *map(str, words)], check=True, stdout=sys.stderr)
        for i, ranks in enumerate(args.ranks):
            count = args.kills // len(args.ranks) + (i < args.kills % len(args.ranks))
            kinds = [KINDS[j % len(KINDS)] for j in range(count)]
            draw.shuffle(kinds)
            summaries.append(kill_and_compare(data, out, ranks, kinds, args.seed))
            print(json.dumps(summaries[-1], indent=1), flush=True)
    sys.exit(not all(map(is_good, summaries)))


if __name__ == '__main__':
    main()
