"""The short form of kills.py, whose result for 30 kills stands in docs/reliability.md."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.common import ROOT, data_options
from helpers.kills import Processes, is_good, kill_and_compare, options
from helpers.launched import OPTIONS, RECIPE, Launched

pytestmark = pytest.mark.multiprocess


def with_hook(folder, name, code):
    """Write a config of the recipe with a hook of a user's own."""
    (folder / f'{name}_hook.py').write_text(code)
    (folder / 'config.py').write_text(
        f"_base_ = '{ROOT / RECIPE}'\n"
        f"custom_imports = dict(imports=['mmdet_largebatch', '{name}_hook'])\n"
        f"custom_hooks = [dict(type='{name}')]\n"
    )
    return folder / 'config.py'


KINDS = ['data worker in training', 'rank in an evaluation', 'rank in a save']


@pytest.fixture(scope='module')
def killed(tmp_path_factory, shapes):
    out = tmp_path_factory.mktemp('killed')
    summary = kill_and_compare(shapes, out, 2, KINDS, epochs=8)
    print(summary)
    return summary, out


def test_killed_again_and_again_it_ends_as_if_never_killed(killed):
    assert is_good(killed[0]), killed[0]


def test_nothing_outlives_a_killed_launcher(shapes, tmp_path):
    """Without the hook that heeds signals, too."""
    without = ('default_hooks.preemption=None', 'train_dataloader.num_workers=2')
    run = Launched(shapes, tmp_path, 2, *options(2, 30), *without)
    run.wait_for(r'Epoch\(train\)')
    processes = Processes(run.process.pid, tmp_path)
    processes.look()
    assert len(processes.ranks()) == 2 and len(processes.workers()) >= 4
    run.process.kill()
    run.process.wait()
    assert processes.left() == []


def test_nothing_outlives_a_killed_evaluation(killed, shapes, tmp_path):
    """Of tools/dist_test.sh one rank is killed, whose data workers end as well."""
    newest = Path((killed[1] / 'whole_2/last_checkpoint').read_text())
    config = with_hook(tmp_path, 'Slow', SLOW)
    words = ['tools/dist_test.sh', config, newest, 2, '--work-dir', tmp_path, '--cfg-options']
    run = subprocess.Popen(
        [str(word) for word in (*words, *data_options(shapes), *OPTIONS)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | dict(
            PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
            PYTHONPATH=f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}',
        ),
    )
    lines = []
    for line in run.stdout:
        lines.append(line)
        if 'waits' in line:
            break
    processes = Processes(run.pid, tmp_path)
    processes.look()
    assert len(processes.ranks()) == 2 and processes.workers(), ''.join(lines[-30:])
    processes.ranks()[1].send_signal(signal.SIGKILL)
    assert run.wait(1800) == 128 + signal.SIGKILL
    assert processes.left() == []


SLOW = """
import time
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Slow(Hook):
    def before_test_iter(self, runner, batch_idx, data_batch=None):
        print('waits', flush=True)
        time.sleep(600)
"""

MISTAKE = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmdet_largebatch import SettingError

@HOOKS.register_module()
class Mistaken(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.rank == 1:
            raise SettingError('name=value: Must be another.')
"""


def test_a_mistake_on_one_rank_ends_all_and_is_not_started_again(command, shapes, tmp_path):
    config, work = with_hook(tmp_path, 'Mistaken', MISTAKE), tmp_path / 'work'
    done = command(
        *('tools/dist_train.sh', config, 2, '--work-dir', work, '--cfg-options'),
        *(*data_options(shapes), *OPTIONS),
        MAX_RESTARTS='3',
        PYTHONPATH=f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}',
    )
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.count('error: name=value: Must be another.') == 1
    assert 'Traceback' not in done.stderr
    assert (done.stdout + done.stderr).count('updates an epoch') == 1


def test_a_wrong_argument_is_not_started_again(command):
    done = command('tools/dist_train.sh', RECIPE, 1, '--no-such', MAX_RESTARTS='3')
    assert done.returncode == 2
    assert done.stderr.count('unrecognized arguments: --no-such') == 1
    assert 'ended with status' not in done.stderr and 'Traceback' not in done.stderr
