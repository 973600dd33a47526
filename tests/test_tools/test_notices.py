"""Preemption notices of Slurm and AWS. Stand-ins replace sbatch, srun, scontrol and the metadata
service, which proves the commands, not the schedulers."""

import http.server
import signal
import subprocess
from threading import Thread

import pytest
from helpers.common import ROOT


@pytest.fixture
def slurm(command, tmp_path):
    """Run a script with stand-ins that record their arguments."""
    calls = tmp_path / 'calls'

    def run(*words, srun_status=0, **environment):
        sbatch = 'while [[ $1 == -* ]]; do [ "$1" = -p ] && shift; shift; done; exec "$@"'
        # As srun(1): tasks that are killed as one has failed, and their signal is the status.
        kept = '[[ "$*" == *--kill-on-bad-exit=0* ]] || exit 143'
        srun = f'echo $LARGEBATCH_RUN\n{kept}\nexit {srun_status}'
        stand_ins = dict(srun=srun, scontrol='exit 0', sbatch=sbatch)
        for name, then in stand_ins.items():
            path = tmp_path / name
            path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>{calls}\n{then}\n')
            path.chmod(0o755)
        path = f'PATH={tmp_path}:/usr/bin:/bin'
        slurm = ('SLURM_JOB_ID=123', 'SLURM_CPUS_PER_TASK=5')
        done = command('env', path, *slurm, *words, **environment)
        return done, calls.read_text().splitlines()

    return run


REQUEUE = ('tools/slurm_train.sh', '--requeue', 'gpu', 'job', 'a.py', 'work')


def test_a_preempted_job_goes_back_into_the_queue(slurm):
    done, calls = slurm(*REQUEUE, srun_status=75, NOTICE_SECONDS='90', CDPATH=str(ROOT))
    assert done.returncode == 75, done.stderr
    sbatch, srun, scontrol = calls
    assert ' --requeue --open-mode=append --signal=USR1@90 ' in sbatch
    assert f'{ROOT}/tools/slurm_batch.sh python -u {ROOT}/tools/train.py a.py' in sbatch
    assert sbatch.endswith('--work-dir=work --resume --launcher slurm')
    # Ranks that hang after a failure are ended as well, later.
    assert '--kill-on-bad-exit=0 --wait=120 --cpus-per-task=5 python -u' in srun
    assert scontrol == 'scontrol requeue 123'


@pytest.mark.parametrize('words', [['--resume', 'a.pth'], ['--resume=a.pth'], ['--resume']])
def test_a_given_resume_is_kept(slurm, words):
    """train.py knows a restart by the name of the run, which is the same at each requeue."""
    done, calls = slurm(*REQUEUE, *words)
    assert done.stdout == 'slurm-123\n'
    assert calls[1].endswith(f'--work-dir=work {" ".join(words)} --launcher slurm')


@pytest.mark.parametrize('status', [0, 1, 3])
def test_any_other_end_is_final(slurm, status):
    done, calls = slurm(*REQUEUE, srun_status=status)
    assert done.returncode == status
    assert [call.split()[0] for call in calls] == ['sbatch', 'srun']


class Metadata(http.server.BaseHTTPRequestHandler):
    """IMDSv2: a token for a PUT, then the notice, from the second request on."""

    asked = 0

    def answer(self, status, text=''):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        good = (
            self.path == '/latest/api/token'
            and self.headers['X-aws-ec2-metadata-token-ttl-seconds']
        )
        self.answer(200 if good else 400, 'secret')

    def do_GET(self):
        if self.headers['X-aws-ec2-metadata-token'] != 'secret':
            return self.answer(401)
        Metadata.asked += 1
        if self.path != '/latest/meta-data/spot/instance-action' or Metadata.asked < 2:
            return self.answer(404)
        self.answer(200, '{"action": "terminate", "time": "2026-01-01T00:02:00Z"}')

    def log_message(self, *args):
        pass


@pytest.mark.slow
def test_the_notice_of_aws_becomes_a_sigterm(command):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Metadata)
    Thread(target=server.serve_forever, daemon=True).start()
    training = subprocess.Popen(['sleep', '1800'])
    address = f'http://127.0.0.1:{server.server_port}'
    done = command('tools/aws_spot_notice.sh', training.pid, METADATA=address)
    server.shutdown()
    assert done.returncode == 0, done.stderr
    assert 'AWS takes this instance: {"action": "terminate"' in done.stdout
    assert training.wait(1800) == -signal.SIGTERM
    assert Metadata.asked == 2


def test_it_ends_with_the_training(command):
    training = subprocess.Popen(['true'])
    training.wait()
    done = command('tools/aws_spot_notice.sh', training.pid, METADATA='http://127.0.0.1:9')
    assert (done.returncode, done.stdout) == (0, '')
