"""Called by dist_train.sh and dist_test.sh: start a tool on several processes, with torchrun.

``launch.py TOOL CONFIG GPUS [ARGUMENTS OF THE TOOL]``. Read from the environment:

- ``NNODES`` machines (1), and without a rendezvous ``NODE_RANK`` (0), ``MASTER_ADDR`` (127.0.0.1)
  and ``PORT`` (29500);
- ``RDZV_ENDPOINT``, host:port of torchrun's rendezvous: machines may then come and go within a
  range such as ``NNODES=4:8``. ``RDZV_ID`` names the run there (the config's name);
- ``MAX_RESTARTS``, how often the processes are started again after a failure (0; 100 for a range).
  With restarts a training resumes from its newest checkpoint, at the first start too;
- ``SHUTDOWN_SECONDS`` that a training which is told to go has for its last save (110).

A signal goes on to the processes. The exit status is theirs.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import List, Mapping

TOOLS = Path(__file__).resolve().parent


def torchrun_arguments(
    tool: str, config: str, gpus: str, arguments: List[str], environment: Mapping[str, str]
) -> List[str]:
    """What torchrun is called with.

    Args:
        tool (str): ``train.py`` or ``test.py``.
        config (str): Path of the config.
        gpus (str): Number of processes on this machine.
        arguments (List[str]): Arguments of the tool.
        environment (Mapping[str, str]): The settings that the module's docstring lists.

    Returns:
        List[str]: The arguments.

    Raises:
        ValueError: With one line for the user, if a setting is wrong.
    """
    if not re.fullmatch('[1-9][0-9]*', gpus):
        raise ValueError(f'GPUS={gpus}: must be a number of processes on this machine, 1 or more.')
    if not os.path.isfile(config):
        raise ValueError(f'config={config}: no such file.')
    nodes = environment.get('NNODES') or '1'
    found = re.fullmatch('([1-9][0-9]*)(?::([1-9][0-9]*))?', nodes)
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise ValueError(f'NNODES={nodes}: must be a number of machines, or a range such as 4:8.')
    restarts = environment.get('MAX_RESTARTS') or ('100' if found[2] else '0')
    if not restarts.isdigit():
        raise ValueError(f'MAX_RESTARTS={restarts}: must be a number, 0 or more.')
    endpoint = environment.get('RDZV_ENDPOINT')
    if not endpoint and nodes != '1' and (found[2] or restarts != '0'):
        raise ValueError(
            f'NNODES={nodes} with MAX_RESTARTS={restarts} needs a rendezvous: set RDZV_ENDPOINT to '
            'HOST:PORT, the same on every machine.'
        )

    words = [f'--nnodes={nodes}', f'--nproc_per_node={gpus}', f'--max_restarts={restarts}']
    if endpoint:
        run = environment.get('RDZV_ID') or Path(config).stem
        words += ['--rdzv_backend=c10d', f'--rdzv_endpoint={endpoint}', f'--rdzv_id={run}']
    else:
        words += [
            f'--node_rank={environment.get("NODE_RANK") or 0}',
            f'--master_addr={environment.get("MASTER_ADDR") or "127.0.0.1"}',
            f'--master_port={environment.get("PORT") or 29500}',
        ]
    words += [str(TOOLS / tool), config, *arguments, '--launcher', 'pytorch']
    resumes = any(word.split('=')[0] == '--resume' for word in arguments)
    if tool == 'train.py' and restarts != '0' and not resumes:
        words.append('--resume')
    return words


def launch(tool: str, arguments: List[str]) -> int:
    """Run torchrun.

    Args:
        tool (str): What it starts, for the message.
        arguments (List[str]): Its arguments.

    Returns:
        int: The status that the tool ended with, 128 and the signal's number where that killed it.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        print(f'{tool} ended with status {status}, first on rank {rank}.', file=sys.stderr)
        return status
    except SignalException as error:
        return 128 + signal.Signals(error.sigval)
    return 0


def main() -> int:
    """Read the command line and the environment, and launch.

    Returns:
        int: The exit status.
    """
    parser = argparse.ArgumentParser(description='Start a tool on several processes')
    parser.add_argument('tool', choices=['train.py', 'test.py'])
    parser.add_argument('config')
    parser.add_argument('gpus')
    parser.add_argument('arguments', nargs=argparse.REMAINDER)
    args = parser.parse_args()
    try:
        words = torchrun_arguments(args.tool, args.config, args.gpus, args.arguments, os.environ)
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    # torchrun would set the first itself, with a warning.
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ['PET_SIGNALS_TO_HANDLE'] = 'SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1'
    os.environ['PET_SHUTDOWN_TIMEOUT'] = os.environ.get('SHUTDOWN_SECONDS') or '110'
    path = os.pathsep.join(filter(None, [str(TOOLS.parent), os.environ.get('PYTHONPATH')]))
    os.environ['PYTHONPATH'] = path
    with tempfile.TemporaryDirectory() as folder:
        # Says more than torchrun can: see mmdet_largebatch/exit_status.py.
        file = Path(os.environ.setdefault('LARGEBATCH_STATUS_FILE', f'{folder}/status'))
        status = launch(args.tool, words)
        return int(file.read_text()) if file.exists() else status


if __name__ == '__main__':
    sys.exit(main())
