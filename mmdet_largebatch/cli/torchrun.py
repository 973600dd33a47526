"""Start train.py or test.py on several processes, with torchrun.

``torchrun.py TOOL CONFIG GPUS [ARGUMENTS OF THE TOOL]``. Settings in the environment:

- ``NNODES``: number of machines (1). Several machines without a rendezvous also need ``NODE_RANK``
  (0), ``MASTER_ADDR`` (127.0.0.1 on machine 0) and ``PORT`` (29500). On one machine ``PORT`` is the
  port of torchrun's server (a free one by default);
- ``RDZV_ENDPOINT``: HOST:PORT of torchrun's rendezvous. It permits a range of machines, such as
  ``NNODES=4:8``. ``RDZV_ID`` names the run there (the name of the config);
- ``MAX_RESTARTS``: number of restarts after failures (0; 100 for a range). With restarts a training
  resumes from its newest checkpoint, also at the first start. ``--resume CHECKPOINT`` holds for the
  first start alone;
- ``SHUTDOWN_SECONDS``: time for the last save after a signal (110).

Signals are forwarded to the processes, SIGHUP as SIGTERM, unless it is ignored as under ``nohup``.
The exit status is theirs.
"""

import argparse
import logging
import os
import re
import runpy
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

# The rendezvous of rendezvous.py.
BACKEND = 'largebatch'


def torchrun_arguments(
    tool: str, config: str, gpus: str, arguments: list[str], environment: Mapping[str, str]
) -> list[str]:
    """Return the arguments of torchrun.

    Args:
        tool (str): ``train.py`` or ``test.py``.
        config (str): Path of the config.
        gpus (str): Number of processes on this machine.
        arguments (list[str]): Arguments of the tool.
        environment (Mapping[str, str]): The settings that the module's docstring lists.

    Returns:
        list[str]: The arguments.

    Raises:
        ValueError: With one line for the user, if a setting is wrong.
    """
    if not re.fullmatch('[1-9][0-9]*', gpus):
        raise ValueError(f'Invalid GPUS={gpus}. Must be a number of processes on this machine.')
    # PACKAGE::CONFIG is resolved by the tool.
    if '::' not in config and not os.path.isfile(config):
        raise ValueError(f'config={config}: no such file.')
    nodes = environment.get('NNODES') or '1'
    found = re.fullmatch('([1-9][0-9]*)(?::([1-9][0-9]*))?', nodes)
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise ValueError(
            f'Invalid NNODES={nodes}. Must be a number of machines, or a range as 4:8.'
        )
    restarts = environment.get('MAX_RESTARTS') or ('100' if found[2] else '0')
    if not restarts.isdigit():
        raise ValueError(f'Invalid MAX_RESTARTS={restarts}. Must be a number >= 0.')
    endpoint = environment.get('RDZV_ENDPOINT')
    if not endpoint and nodes != '1' and (found[2] or restarts != '0'):
        raise ValueError(
            f'NNODES={nodes} with MAX_RESTARTS={restarts} needs a rendezvous: set RDZV_ENDPOINT to '
            'HOST:PORT, the same on every machine.'
        )

    port = environment.get('PORT')
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f'Invalid PORT={port}. Must be a number from 1 to 65535.')

    words = [f'--nnodes={nodes}', f'--nproc_per_node={gpus}', f'--max_restarts={restarts}']
    if endpoint:
        run = environment.get('RDZV_ID') or Path(config).stem
        words += [f'--rdzv_backend={BACKEND}', f'--rdzv_endpoint={endpoint}', f'--rdzv_id={run}']
        if endpoint.startswith(('127.', 'localhost')):
            words.append('--local_addr=127.0.0.1')
    elif nodes == '1':
        # The host name may not resolve. Port 0 means a free one.
        words += [
            *(f'--rdzv_backend={BACKEND}', f'--rdzv_endpoint=127.0.0.1:{port or 0}'),
            *(f'--rdzv_id={uuid.uuid4()}', '--rdzv_conf=is_host=1', '--local_addr=127.0.0.1'),
        ]
    else:
        machine, address = environment.get('NODE_RANK') or '0', environment.get('MASTER_ADDR')
        if not machine.isdigit() or int(machine) >= int(nodes):
            raise ValueError(
                f'Invalid NODE_RANK={machine}. Must be from 0 to {int(nodes) - 1}, another one on '
                f'each of NNODES={nodes} machines.'
            )
        if machine != '0' and not address:
            raise ValueError(
                f'MASTER_ADDR is not set. Must be the address of machine 0, with '
                f'NODE_RANK={machine}.'
            )
        words += [
            f'--node_rank={machine}',
            f'--master_addr={address or "127.0.0.1"}',
            f'--master_port={port or 29500}',
        ]
    words += [
        '--module',
        f'mmdet_largebatch.cli.{Path(tool).stem}',
        config,
        *arguments,
        '--launcher',
        'pytorch',
    ]
    resumes = any(word.split('=')[0] == '--resume' for word in arguments)
    if tool == 'train.py' and restarts != '0' and not resumes:
        words.append('--resume')
    return words


def port_is_free(port: int) -> bool:
    """Return True if a server can listen on a port of this machine."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    dual = family is socket.AF_INET6
    try:
        socket.create_server(('', port), family=family, dualstack_ipv6=dual).close()
    except OSError:
        return False
    return True


def check_port(environment: Mapping[str, str]) -> None:
    """Refuse a port that is in use, if this machine must listen on it.

    Args:
        environment (Mapping[str, str]): The settings that the module's docstring lists.

    Raises:
        ValueError: With one line for the user, if the port is in use.
    """
    several = (environment.get('NNODES') or '1') != '1'
    port = environment.get('PORT') or ('29500' if several else None)
    listens = not environment.get('RDZV_ENDPOINT') and (environment.get('NODE_RANK') or '0') == '0'
    if port and listens and not port_is_free(int(port)):
        other = 'a free one, the same on every machine' if several else 'free, or not set at all'
        raise ValueError(f'Invalid PORT={port}, which is in use on this machine. Must be {other}.')


def meeting_place(environment: Mapping[str, str]) -> str:
    """Return HOST:PORT where several machines meet.

    Args:
        environment (Mapping[str, str]): The settings that the module's docstring lists.
    """
    address, port = environment.get('MASTER_ADDR') or '127.0.0.1', environment.get('PORT') or 29500
    return environment.get('RDZV_ENDPOINT') or f'{address}:{port}'


def shutdown_seconds(environment: Mapping[str, str]) -> int:
    """Return the time for the last save after a signal.

    Args:
        environment (Mapping[str, str]): The settings that the module's docstring lists.

    Raises:
        ValueError: With one line for the user, if the setting is not a number.
    """
    seconds = environment.get('SHUTDOWN_SECONDS') or '110'
    if not seconds.isdigit():
        raise ValueError(f'Invalid SHUTDOWN_SECONDS={seconds}. Must be a whole number >= 0.')
    return int(seconds)


def launch(tool: str, arguments: list[str], seconds: int, file: Path) -> int:
    """Run torchrun.

    Args:
        tool (str): Name of the tool, for messages.
        arguments (list[str]): Arguments of torchrun.
        seconds (int): Time for the last save after a signal.
        file (Path): File to which a rank writes the exit code, see utils/exit_codes.py.

    Returns:
        int: Exit status of the run; 128 + the number of a signal that killed it.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    # By path: this file runs without the package, whose import would load mmdet.
    own = runpy.run_path(str(Path(__file__).with_name('rendezvous.py')))
    is_final = own['is_final']
    own['register']()
    runpy.run_path(str(Path(__file__).with_name('signals.py')))['register'](seconds)
    # A rank that printed its own line needs no report.
    reports = logging.getLogger('torch.distributed.elastic.multiprocessing.api')
    reports.addFilter(lambda record: not is_final(file))
    status = 0
    try:
        run(parse_args(arguments))
    except own['NoRestartError']:
        pass
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
        if not is_final(file):
            print(f'{tool} ended with status {status}, first on rank {rank}.', file=sys.stderr)
    except SignalException as error:
        status = 128 + signal.Signals(error.sigval)
    except (DistError, RendezvousError) as error:
        status = 1
        said = str(error.__cause__ or error).splitlines()[0]
        print(f'error: the machines of this run did not meet: {said}', file=sys.stderr)
    # Empty if the rank was killed while writing.
    words = file.read_text().split() if file.exists() else []
    return int(words[0]) if words else status


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
        check_port(os.environ)
        seconds = shutdown_seconds(os.environ)
    except ValueError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    if (nodes := os.environ.get('NNODES') or '1') != '1':
        print(f'Waiting for {nodes} machines at {meeting_place(os.environ)}.', file=sys.stderr)
    # torchrun sets the first one too, with a warning.
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    os.environ['LARGEBATCH_LAUNCHER'] = str(os.getpid())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'status')
        os.environ['LARGEBATCH_STATUS_FILE'] = str(file)
        return launch(args.tool, words, seconds, file)


if __name__ == '__main__':
    sys.exit(main())
