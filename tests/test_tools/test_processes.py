"""A launcher that does not fit how the processes were started is one line."""

import os

import pytest
import torch
from mmengine.config import Config

from mmdet_largebatch.cli import processes, use_gloo_without_gpu

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
# As torchrun sets them on the first of 2 processes.
TORCHRUN = dict(
    RANK='0',
    LOCAL_RANK='0',
    WORLD_SIZE='2',
    LOCAL_WORLD_SIZE='2',
    MASTER_ADDR='127.0.0.1',
    MASTER_PORT='29500',
)
MPIRUN = dict(
    OMPI_COMM_WORLD_RANK='0',
    OMPI_COMM_WORLD_LOCAL_RANK='0',
    OMPI_COMM_WORLD_SIZE='2',
    OMPI_COMM_WORLD_LOCAL_SIZE='2',
)


@pytest.fixture
def refused(tool, monkeypatch, tmp_path):
    """The only line of a training, which has made no work folder."""

    def run(launcher, environment):
        for name in TORCHRUN | MPIRUN:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        work = tmp_path / 'work'
        done = tool('train.py', RECIPE, '--work-dir', work, '--launcher', launcher)
        assert done.returncode == 2 and not work.exists(), done.stderr
        [line] = done.stderr.splitlines()
        return line

    return run


@pytest.mark.parametrize(
    ('launcher', 'environment', 'message'),
    [
        (
            'none',
            TORCHRUN,
            "Invalid --launcher='none'. Must be 'pytorch' for one run of 2 processes",
        ),
        ('none', TORCHRUN | dict(LOCAL_RANK='1'), "Must be 'pytorch' for one run of 2 processes"),
        (
            'none',
            MPIRUN,
            "Invalid --launcher='none'. Must be 'mpi' for one run of 2 processes",
        ),
        (
            'pytorch',
            {},
            "Invalid --launcher='pytorch'. Must be 'none', unless torchrun or dist_train.sh starts "
            'the processes: RANK is not set.',
        ),
        ('slurm', {}, "Must be 'none', unless srun starts the processes: SLURM_PROCID is not set."),
        ('mpi', TORCHRUN, "Open MPI's mpirun starts the processes: OMPI_COMM_WORLD_LOCAL_RANK is "),
        ('mpi', MPIRUN, 'MASTER_ADDR is not set. Must be the address of the first machine.'),
    ],
)
def test_how_the_processes_were_started(refused, launcher, environment, message):
    assert message in refused(launcher, environment)


def test_a_cluster_that_counts_machines(tool, monkeypatch):
    """Kubeflow sets WORLD_SIZE and RANK, and no LOCAL_RANK: what is refused here is the option."""
    for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, TORCHRUN[name])
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    done = tool('train.py', RECIPE, '--auto-scale-lr')
    assert 'Invalid auto_scale_lr=None' in done.stderr


@pytest.mark.parametrize(('launcher', 'environment'), [('pytorch', TORCHRUN), ('mpi', MPIRUN)])
def test_more_processes_than_gpus(refused, monkeypatch, launcher, environment):
    """The number of GPUs is a stand-in: this is refused before one is used."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    line = refused(launcher, environment | dict(MASTER_ADDR='127.0.0.1'))
    assert 'Invalid GPUS=2. Must be at most 1, the number of visible GPUs of this machine' in line


@pytest.mark.parametrize(
    ('environment', 'port'),
    [
        (dict(SLURM_JOB_ID='123', SLURM_STEP_ID='0'), 20000 + 31 * 123),
        (dict(SLURM_JOB_ID='123', SLURM_STEP_ID='1'), 20000 + 31 * 123 + 1),
        (dict(SLURM_JOB_ID='10123'), 20000 + 31 * 10123 - 310000),
        (dict(SLURM_JOB_ID='123', MASTER_PORT='29501'), 29501),
    ],
)
def test_the_port_of_a_slurm_job(monkeypatch, environment, port):
    monkeypatch.delenv('SLURM_STEP_ID', raising=False)
    # So that the variable is removed in the end.
    monkeypatch.setenv('MASTER_PORT', '')
    monkeypatch.delenv('MASTER_PORT')
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    processes.set_slurm_port(Config(dict(launcher='slurm')))
    assert os.environ['MASTER_PORT'] == str(port)


@pytest.mark.parametrize('device', ['mlu', 'npu', 'musa'])
def test_another_accelerator_is_left_to_mmengine(monkeypatch, device):
    """No such machine was available: its name is a stand-in."""
    monkeypatch.setattr(processes, 'get_device', lambda: device)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(launcher='pytorch'))
    use_gloo_without_gpu(cfg)
    assert cfg.to_dict() == dict(launcher='pytorch')
    assert not torch.distributed.is_initialized()
