"""Process groups of one rank, and trainings of detectors on processes of their own."""

import pytest
import torch
from helpers import train_detectors
from helpers.forked import run_apart
from torch.distributed import HashStore


@pytest.fixture
def one_rank(monkeypatch):
    """A process group of one rank, for which DDP does what it does for several."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    torch.distributed.init_process_group('gloo', rank=0, world_size=1, store=HashStore())
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope='module')
def trained(tmp_path_factory, shapes):
    """Train detectors one after the other; return what each job's ranks wrote, by its name.

    A job is a detector, a number of processes and the arguments of `detectors.training`. `float64`
    and `resume` are the job's own; `folder` names a work folder that jobs share.
    """
    root = tmp_path_factory.mktemp('trained')

    def run(jobs):
        made = []
        for name, (detector, ranks, settings) in jobs.items():
            settings = dict(settings)
            own = {key: settings.pop(key, False) for key in ('float64', 'resume')}
            work_dir = str(root / f'work_{settings.pop("folder", name)}')
            training = dict(name=detector, root=str(shapes), work_dir=work_dir) | settings
            made.append(dict(out=str(root / name), ranks=ranks, training=training) | own)
        done = run_apart(train_detectors.main, made)
        assert done.returncode == 0, done.stdout[-3000:]
        return {
            name: [torch.load(root / (f'{name}.{rank}' if rank else name)) for rank in range(ranks)]
            for name, (_, ranks, _) in jobs.items()
        }

    return run
