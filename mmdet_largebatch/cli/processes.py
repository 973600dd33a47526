"""The processes of a run: how they were started, and how they run without a GPU."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device

from ..checks import check, invalid
from ..errors import SettingError

# For each launcher: what starts the processes, and the variables that MMEngine needs of it.
STARTED_BY = dict(pytorch='torchrun or dist_train.sh', slurm='srun', mpi="Open MPI's mpirun")
VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    mpi=('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
)
# Accelerators besides CUDA that MMEngine's launchers set up.
ACCELERATORS = dict(pytorch=('mlu', 'npu', 'musa'), slurm=('mlu',))
# The number of processes on this machine.
LOCAL_SIZES = dict(pytorch='LOCAL_WORLD_SIZE', mpi='OMPI_COMM_WORLD_LOCAL_SIZE')


def check_processes(cfg: Config) -> None:
    """Refuse a launcher that did not start this process, and more processes than GPUs.

    Args:
        cfg (Config): The config, with ``launcher`` of the command line.

    Raises:
        SettingError: If several processes would each run alone, a variable of the launcher is
            missing, or a process has no GPU where there are GPUs.
    """
    launcher = cfg.launcher
    if launcher == 'none':
        _refuse_separate_runs()
        return
    missing = [name for name in VARIABLES[launcher] if name not in os.environ]
    # An address in the config replaces the last variables of torchrun.
    if launcher == 'pytorch' and 'init_method' in cfg.get('env_cfg', {}).get('dist_cfg', {}):
        missing = [name for name in missing if name == 'RANK']
    if missing:
        raise invalid(
            '--launcher',
            launcher,
            f"'none', unless {STARTED_BY[launcher]} starts the processes: {missing[0]} is not set",
        )
    if launcher == 'mpi' and 'MASTER_ADDR' not in os.environ:
        raise SettingError('MASTER_ADDR is not set. Must be the address of the first machine.')
    size, gpus = int(os.environ.get(LOCAL_SIZES.get(launcher, ''), 1)), torch.cuda.device_count()
    wanted = f'at most {gpus}, the number of visible GPUs of this machine (CUDA_VISIBLE_DEVICES)'
    check(gpus == 0 or size <= gpus, 'GPUS', size, wanted)


def _refuse_separate_runs() -> None:
    """Refuse several processes without a launcher, which would write into one work folder."""
    sizes = dict(mpi='OMPI_COMM_WORLD_SIZE')
    # Some clusters set WORLD_SIZE for machines, on which torchrun is still to be started.
    if 'LOCAL_RANK' in os.environ:
        sizes['pytorch'] = 'WORLD_SIZE'
    for launcher, name in sizes.items():
        size = os.environ.get(name, '1')
        if size != '1':
            wanted = (
                f'{launcher!r} for one run of {size} processes ({name}={size}); unset {name} for '
                'separate runs'
            )
            error = invalid('--launcher', 'none', wanted)
            # The launcher ends all processes as soon as one has exited.
            error.alone = True
            raise error


def set_slurm_port(cfg: Config) -> None:
    """Set ``MASTER_PORT`` by the job and the step, under ``--launcher slurm``.

    MMEngine takes 29500 for every job, also for two on one machine. A port in the environment or
    in ``env_cfg.dist_cfg`` is left as it is.

    Args:
        cfg (Config): The config, with ``launcher`` of the command line.
    """
    job, step = os.environ.get('SLURM_JOB_ID', ''), os.environ.get('SLURM_STEP_ID', '0')
    if cfg.launcher == 'slurm' and job.isdigit() and step.isdigit():
        # Below the ports that Linux gives to clients.
        os.environ.setdefault('MASTER_PORT', str(20000 + (31 * int(job) + int(step)) % 10000))


def use_gloo_without_gpu(cfg: Config) -> None:
    """Run several processes on gloo where there is no GPU.

    MMEngine's launcher calls ``torch.cuda.set_device``, and its default wrapper passes GPU numbers
    to DDP. Both are left out on a machine without a GPU.

    Args:
        cfg (Config): The config; its ``model_wrapper_cfg`` is filled in.

    Raises:
        SettingError: If the launcher cannot start processes without a GPU.
    """
    if cfg.launcher == 'none' or torch.cuda.is_available():
        return
    if get_device() in ACCELERATORS.get(cfg.launcher, ()):
        return
    if cfg.launcher != 'pytorch':
        raise SettingError(
            f'--launcher {cfg.launcher} needs a GPU and none is visible. '
            'Without one, use tools/dist_train.sh or --launcher pytorch.'
        )
    seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout')
    if not dist.is_initialized():
        dist.init_process_group('gloo', timeout=seconds and timedelta(seconds=seconds))
    if not cfg.get('model_wrapper_cfg'):
        cfg.model_wrapper_cfg = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False),
        )
    cfg.model_wrapper_cfg.device_ids = None
