"""From the environment to torchrun's arguments. test_reliability runs them."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from helpers.common import ROOT

from mmdet_largebatch.cli import torchrun

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


@pytest.fixture(scope='module')
def arguments():
    return lambda *words, tool='train.py', gpus='8', **environment: torchrun.torchrun_arguments(
        tool, str(ROOT / RECIPE), gpus, list(words), environment
    )


def split(words):
    """Return torchrun's options, the tool's name and its arguments after the config."""
    at = words.index('--module')
    return words[:at], words[at + 1], words[at + 3 :]


def test_one_machine_meets_itself_on_the_loopback(arguments):
    options, tool, rest = split(arguments('--cfg-options', 'a="[1, 2]"'))
    run = options.pop(5)
    assert options == [
        *('--nnodes=1', '--nproc_per_node=8', '--max_restarts=0'),
        *('--rdzv_backend=largebatch', '--rdzv_endpoint=127.0.0.1:0'),
        *('--rdzv_conf=is_host=1', '--local_addr=127.0.0.1'),
    ]
    # Two runs of one config never meet.
    assert run.startswith('--rdzv_id=') and run not in arguments()
    assert tool == 'mmdet_largebatch.cli.train'
    assert rest == ['--cfg-options', 'a="[1, 2]"', '--launcher', 'pytorch']
    assert '--rdzv_endpoint=127.0.0.1:29801' in arguments(PORT='29801')


def test_settings_reach_every_machine(arguments):
    settings = dict(NNODES='8', NODE_RANK='1', MASTER_ADDR='10.0.0.1', PORT='29801')
    assert split(arguments(**settings))[0] == [
        *('--nnodes=8', '--nproc_per_node=8', '--max_restarts=0'),
        *('--node_rank=1', '--master_addr=10.0.0.1', '--master_port=29801'),
    ]


def test_machines_that_come_and_go(arguments):
    options, _, rest = split(arguments(NNODES='4:8', RDZV_ENDPOINT='10.0.0.1:29400'))
    assert options == [
        *('--nnodes=4:8', '--nproc_per_node=8', '--max_restarts=100', '--rdzv_backend=largebatch'),
        *('--rdzv_endpoint=10.0.0.1:29400', '--rdzv_id=mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes'),
    ]
    assert rest == ['--launcher', 'pytorch', '--resume']


def test_a_training_with_restarts_resumes_and_nothing_else_does(arguments):
    assert split(arguments(MAX_RESTARTS='3'))[2] == ['--launcher', 'pytorch', '--resume']
    given = split(arguments('--resume', 'a.pth', MAX_RESTARTS='3'))[2]
    assert given == ['--resume', 'a.pth', '--launcher', 'pytorch']
    assert '--resume' not in arguments('a.pth', tool='test.py', MAX_RESTARTS='3')


@pytest.mark.parametrize(
    ('environment', 'message'),
    [
        (
            dict(NNODES='8:4'),
            'Invalid NNODES=8:4. Must be a number of machines, or a range as 4:8.',
        ),
        (dict(NNODES='all'), 'Invalid NNODES=all. Must be a number of machines'),
        (dict(MAX_RESTARTS='-1'), 'Invalid MAX_RESTARTS=-1. Must be a number >= 0.'),
        (dict(NNODES='4:8'), 'NNODES=4:8 with MAX_RESTARTS=100 needs a rendezvous'),
        (dict(NNODES='2', MAX_RESTARTS='3'), 'NNODES=2 with MAX_RESTARTS=3 needs a rendezvous'),
        (dict(PORT='http'), 'Invalid PORT=http. Must be a number from 1 to 65535.'),
        (dict(gpus='0'), 'Invalid GPUS=0. Must be a number of processes'),
        (dict(NNODES='2', NODE_RANK='2'), 'Invalid NODE_RANK=2. Must be from 0 to 1'),
        (dict(NNODES='2', NODE_RANK='1'), 'MASTER_ADDR is not set. Must be the address of'),
    ],
)
def test_wrong_settings(arguments, environment, message):
    with pytest.raises(ValueError, match=message):
        arguments(**environment)


@pytest.mark.parametrize('machines', [{}, dict(NNODES='2', NODE_RANK='0')])
def test_a_port_that_is_taken_is_one_line(command, machines):
    with socket.create_server(('', 0)) as server:
        port = str(server.getsockname()[1])
        done = command('tools/dist_train.sh', RECIPE, 2, PORT=port, **machines)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(
        f'error: Invalid PORT={port}, which is in use on this machine. Must be '
    )


# In place of train.py: ranks that say what they receive. SIGUSR1 ends them as after a save.
RANK = """
import os, signal, sys
from pathlib import Path

def say(what):
    os.write(1, f"{os.environ['RANK']} {what}\\n".encode())

def note(number, frame):
    say(signal.Signals(number).name)
    if number == signal.SIGUSR1:
        Path(os.environ['LARGEBATCH_STATUS_FILE']).write_text('75 again')
        sys.exit(75)

for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, note)
# If the test fails before it ends them.
signal.alarm(100)
say('trains')
while True:
    signal.pause()
"""


@pytest.fixture
def told(tmp_path):
    """Start the launcher with 2 of these ranks, signal it once both train, and wait for it."""
    package = tmp_path / 'mmdet_largebatch/cli'
    package.mkdir(parents=True)
    for path in (package.parent / '__init__.py', package / '__init__.py'):
        path.touch()
    (package / 'train.py').write_text(RANK)
    code = f"import runpy; runpy.run_path({torchrun.__file__!r}, run_name='__main__')"

    def run(*numbers, hangup, **settings):
        process = subprocess.Popen(
            [sys.executable, '-c', code, 'train.py', str(ROOT / RECIPE), '2'],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict(PYTHONPATH=str(tmp_path)) | settings,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
        )
        lines = sorted(process.stdout.readline() for _ in range(2))
        assert lines == ['0 trains\n', '1 trains\n']
        for number in numbers:
            process.send_signal(number)
        output, _ = process.communicate(timeout=100)
        return process.returncode, sorted(output.splitlines())

    return run


def test_ranks_survive_a_hangup_under_nohup(told):
    """Nothing reaches them but the SIGUSR1 that follows."""
    status, lines = told(signal.SIGHUP, signal.SIGUSR1, hangup=signal.SIG_IGN)
    assert (status, lines) == (75, ['0 SIGUSR1', '1 SIGUSR1'])


def test_ranks_save_as_a_terminal_is_closed(told):
    """They get the SIGTERM on which PreemptionHook saves. These two take longer than they may."""
    status, lines = told(signal.SIGHUP, signal.SIGUSR1, hangup=signal.SIG_DFL, SHUTDOWN_SECONDS='1')
    assert (status, lines) == (128 + signal.SIGTERM, ['0 SIGTERM', '1 SIGTERM'])


def test_shutdown_seconds_must_be_a_number():
    assert torchrun.shutdown_seconds({}) == 110
    with pytest.raises(ValueError, match=r'Invalid SHUTDOWN_SECONDS=2m. Must be a whole number'):
        torchrun.shutdown_seconds(dict(SHUTDOWN_SECONDS='2m'))
