"""One recipe on 1, 2, 3 and 4 processes, stopped and resumed: the same trajectory.

The tolerances are the project's contract: losses to rtol 1e-4, the weight vector to 1e-5 relative
in the L2 norm in float32 and to 1e-10 in float64. docs/global_batch.md has what was measured.

Where two proposals score nearly the same, the last bit of a float32 decides which comes first. So
that a float32 run tells about sums alone, its RoI head gets every proposal, and takes every one;
the float64 runs choose and draw them as the recipe does.
"""

import json

import pytest
import torch
from helpers import trajectory
from helpers.common import EVERY_PROPOSAL, data_options
from helpers.forked import run_apart

pytestmark = pytest.mark.multiprocess

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


class Run:
    """The output of a run of trajectory.py: per micro-batch, per update, and the weights."""

    def __init__(self, folder, ranks, stdout):
        self.stdout, self.micro_batches, self.reads = stdout, {}, []
        for rank in range(ranks):
            written = json.loads((folder / f'out.{rank}.json').read_text())
            assert not set(self.micro_batches) & set(written['micro_batches'])
            self.micro_batches |= written['micro_batches']
            self.reads += written['reads']
            self.losses = written['losses']
        self.weights = torch.load(folder / 'out.pth')

    def of(self, what):
        return {key: found[what] for key, found in self.micro_batches.items()}

    def distance(self, other):
        """Relative distance of the two weight vectors in the L2 norm."""
        mine, theirs = (
            torch.cat([w.double().flatten() for w in run.weights.values()]) for run in (self, other)
        )
        return float((mine - theirs).norm() / mine.norm())


@pytest.fixture(scope='module')
def train(tmp_path_factory, shapes):
    """Train on some processes; None where it was told to stop on its way."""

    def run(ranks, folder=None, float64=False, stop_after=None, **options):
        folder = folder or tmp_path_factory.mktemp(f'ranks{ranks}')
        settings = dict(option.split('=') for option in data_options(shapes))
        settings |= {
            'work_dir': str(folder),
            'model.train_cfg.rpn.sampler.num': 16,
            'model.train_cfg.rcnn.sampler.num': 16,
            **({} if float64 else EVERY_PROPOSAL),
            # The sums of DDP; test_exact_sum.py has the recipe's own.
            'train_cfg.exact_sum': False,
            # A tenth of the recipe's: LAMB's first steps are the same size whatever the gradient,
            # and where that is near zero its rounding decides their sign.
            'optim_wrapper.optimizer.lr': 0.001,
            'default_hooks.lr.warmup_iters': 2,
            'default_hooks.checkpoint.by_epoch': False,
            'default_hooks.checkpoint.interval': 5,
            'default_hooks.checkpoint.max_keep_ckpts': -1,
            'default_hooks.logger.interval': 1,
            'val_cfg': None,
            'val_dataloader': None,
            'val_evaluator': None,
            **{name.replace('__', '.'): value for name, value in options.items()},
        }
        settings = dict(
            ranks=ranks, config=RECIPE, options=settings, float64=float64, stop_after=stop_after
        )
        done = run_apart(trajectory.main, folder / 'out', settings)
        assert done.returncode == 0, done.stdout[-6000:]
        return None if stop_after else Run(folder, ranks, done.stdout)

    return run


# 20 pictures in 8 micro-batches of 2 are 2 updates an epoch; 3 epochs are 6.
SIX_UPDATES = dict(
    train_dataloader__batch_size=2, train_cfg__max_epochs=3, default_hooks__lr__milestones=[2]
)


@pytest.fixture(scope='module')
def alone(train):
    return train(1, **SIX_UPDATES)


def assert_same_trajectory(mine, theirs):
    report(mine, theirs)
    for what in ('pictures', 'flips', 'anchors'):
        assert mine.of(what) == theirs.of(what)
    assert len(mine.losses) == len(theirs.losses)
    for a, b in zip(mine.losses, theirs.losses, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert mine.distance(theirs) < 1e-5


def report(mine, theirs):
    """Print what docs/global_batch.md quotes; pytest -rP shows it."""
    off = [
        abs(a[name] / b[name] - 1)
        for a, b in zip(mine.losses, theirs.losses, strict=True)
        for name in a
        if name.startswith('loss') and b[name] != 0
    ]
    print(
        f'{len(mine.micro_batches)} micro-batches; losses within {max(off):.1e}, weights within '
        f'{mine.distance(theirs):.1e}'
    )


@pytest.mark.parametrize(
    ('ranks', 'share'),
    [
        (2, '2 ranks, 4'),
        (3, '3 ranks, 2 or 3'),
        pytest.param(4, '4 ranks, 2', marks=pytest.mark.whole),
    ],
)
def test_same_trajectory_on_any_number_of_ranks(train, alone, ranks, share):
    run = train(ranks, **SIX_UPDATES)
    line = f'{share} micro-batches each of 2 images, global batch 16, 2 updates an epoch'
    assert line in run.stdout
    assert len(run.micro_batches) == 6 * 8
    assert_same_trajectory(run, alone)
    # It can fail: another flip or seed would show. About half of the pictures are flipped.
    flips = sum(run.of('flips').values(), [])
    assert 0.25 < sum(flips) / len(flips) < 0.75


def test_same_trajectory_in_float64(train):
    one, three = (train(ranks, float64=True, **SIX_UPDATES) for ranks in (1, 3))
    assert_same_trajectory(one, three)
    assert one.of('rois') == three.of('rois')
    assert one.distance(three) < 1e-10


# 8 micro-batches of 1 are 3 updates an epoch, so update 5 of 9 is in the middle of the second.
NINE_UPDATES = dict(
    train_dataloader__batch_size=1,
    train_cfg__global_batch_size=8,
    train_cfg__max_epochs=3,
    default_hooks__lr__milestones=[1, 2],
)


@pytest.fixture(scope='module')
def never_stopped(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp('never_stopped')
    return train(2, folder, train_dataloader__num_workers=2, **NINE_UPDATES), folder


@pytest.fixture(scope='module')
def stopped(train, tmp_path_factory):
    """A work folder with the checkpoint of update 5, from a run that ended there."""
    folder = tmp_path_factory.mktemp('stopped')
    train(2, folder, stop_after=5, train_dataloader__num_workers=1, **NINE_UPDATES)
    assert (folder / 'iter_5.pth').is_file() and not (folder / 'iter_9.pth').exists()
    return folder


# No data worker, so that what is read can be counted.
RESUMED = dict(
    resume=True,
    train_dataloader__num_workers=0,
    train_dataloader__persistent_workers=False,
    **NINE_UPDATES,
)


def assert_equal(mine, theirs, path=''):
    """Equal to the bit, through dicts and lists."""
    assert type(mine) is type(theirs), path
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), path
        for key in mine:
            assert_equal(mine[key], theirs[key], f'{path}/{key}')
    elif isinstance(mine, (list, tuple)):
        assert len(mine) == len(theirs), path
        for index, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            assert_equal(a, b, f'{path}/{index}')
    elif isinstance(mine, torch.Tensor):
        assert mine.dtype == theirs.dtype and mine.equal(theirs), path
    else:
        assert mine == theirs, path


def test_resumed_in_an_epoch_it_ends_bit_for_bit_as_if_never_stopped(train, never_stopped, stopped):
    whole, folder = never_stopped
    rest = train(2, stopped, load_from=str(stopped / 'iter_5.pth'), **RESUMED)
    a, b = (torch.load(f / 'iter_9.pth', weights_only=False) for f in (folder, stopped))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_equal(a[part], b[part], part)
    assert (a['meta']['iter'], a['meta']['epoch']) == (b['meta']['iter'], b['meta']['epoch'])
    infos = [checkpoint['message_hub']['runtime_info'] for checkpoint in (a, b)]
    assert infos[0]['iter'] == infos[1]['iter'] == 8
    # What it computed is what was left, and nothing else was read: 4 updates of 8 pictures.
    left = {key for key in whole.micro_batches if int(key.split('/')[0]) >= 5}
    assert rest.of('pictures') == {key: whole.of('pictures')[key] for key in left}
    assert rest.of('flips') == {key: whole.of('flips')[key] for key in left}
    assert sorted(rest.reads) == sorted(sum(rest.of('pictures').values(), []))


def test_resumed_on_another_number_of_ranks(train, never_stopped, stopped, tmp_path):
    """The checkpoint of 2 ranks goes on with 3, to the tolerance of the trajectory."""
    whole, _ = never_stopped
    rest = train(3, tmp_path, load_from=str(stopped / 'iter_5.pth'), **RESUMED)
    left = {key for key in whole.micro_batches if int(key.split('/')[0]) >= 5}
    for what in ('pictures', 'flips', 'anchors'):
        assert rest.of(what) == {key: whole.of(what)[key] for key in left}
    for a, b in zip(rest.losses, whole.losses[5:], strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert rest.distance(whole) < 1e-5
