"""Told to go in a training and in an evaluation: nothing that was finished is computed again."""

import re
import signal

import pytest
import torch
from helpers import uneven_evaluation
from helpers.common import data_options
from helpers.forked import free_port, run_apart
from helpers.launched import OPTIONS, RECIPE, Launched, that_logs, vector, wait_for_port

pytestmark = pytest.mark.multiprocess

TWO_EPOCHS = ('train_cfg.max_epochs=2', 'default_hooks.lr.milestones=[1]')


@pytest.fixture(scope='module')
def told(tmp_path_factory, shapes):
    """A run told to go in its first epoch, then in its first evaluation, then left alone."""
    work = tmp_path_factory.mktemp('told')
    first = Launched(shapes, work, 2, *TWO_EPOCHS, PORT=free_port())
    first.wait_for(r'Epoch\(train\)\s+\[1\]\[2/5\]')
    first.process.send_signal(signal.SIGTERM)
    first.status = first.finish()
    first.files = {path.name for path in work.iterdir()}
    resume = dict(arguments=['--resume'])
    second = Launched(shapes, work, 2, *TWO_EPOCHS, **resume, PORT=free_port())
    second.wait_for(r'Epoch\(val\)\s+\[1\]\[1/4\]')
    # All processes of the job at once, data workers included, and again: as some schedulers do.
    for _ in range(2):
        second.send_to_all(signal.SIGUSR1)
    second.status = second.finish()
    second.files = {path.name for path in work.iterdir()}
    third = Launched(shapes, work, 2, *TWO_EPOCHS, **resume, PORT=free_port())
    third.status = third.finish()
    return first, second, third, work


def test_in_a_training_it_saves_the_update_it_is_at_and_leaves(told):
    first = told[0]
    assert first.status == 75, first.text[-3000:]
    said = re.search(
        r'Preempted \(SIGTERM on rank \d\): update (\d) is saved in (\S+)\. Exit', first.text
    )
    # One update may end while the line is on its way, and one more is computed meanwhile.
    assert 2 <= int(said[1]) <= 4 and said[2].endswith(f'/restart_{said[1]}.pth')
    assert first.updates == [(1, update + 1) for update in range(int(said[1]))]
    assert f'restart_{said[1]}.pth' in first.files


def test_in_an_evaluation_it_leaves_with_what_is_saved_already(told):
    second = told[1]
    assert second.status == 75, second.text[-3000:]
    said = r'Preempted \(SIG\w+ on rank \d\): update 5 is saved in \S+/epoch_1\.pth\. Exit'
    assert re.search(said, second.text)
    assert 'epoch_1.pth' in second.files
    assert not any(name.startswith('restart_') for name in second.files)
    assert len(re.findall(r'Epoch\(val\)', second.text)) <= 3
    assert 'bbox_mAP' not in second.text


def test_nothing_is_computed_twice_and_the_evaluation_is_made_up_for(told):
    first, second, third, work = told
    assert third.status == 0, third.text[-3000:]
    assert first.updates + second.updates + third.updates == [
        (epoch, update) for epoch in (1, 2) for update in range(1, 6)
    ]
    # The evaluation of epoch 1, before the first update of epoch 2.
    evaluation = third.text.index('coco/bbox_mAP')
    assert evaluation < third.text.index('Epoch(train)')
    assert third.text.count('coco/bbox_mAP: ') == 2


@pytest.fixture(scope='module')
def never_stopped(tmp_path_factory, shapes, tool):
    """On 1 rank: the recipe adds gradients exactly, so that 2 ranks have the same bits."""
    work = tmp_path_factory.mktemp('never_stopped')
    words = ('train.py', RECIPE, '--work-dir', work, '--cfg-options')
    done = tool(*words, *data_options(shapes), *OPTIONS, *TWO_EPOCHS)
    assert done.returncode == 0, done.stderr[-3000:]
    return work


def test_the_weights_are_those_of_a_run_never_told(told, never_stopped):
    """Bit for bit, on the same CPU."""
    assert vector(told[3] / 'epoch_2.pth').equal(vector(never_stopped / 'epoch_2.pth'))


def test_an_evaluation_of_unequal_shares(tmp_path):
    """Told to go in a batch that the other rank does not have, both exit after the next update."""
    done = run_apart(uneven_evaluation.main, tmp_path)
    assert done.returncode == 75, done.stdout[-3000:]
    assert 'Preempted (SIGTERM on rank 0): update 3 is saved in ' in done.stdout


def test_a_machine_that_is_lost_is_done_without(shapes, tmp_path, never_stopped):
    """Two agents of torchrun as two machines, with a rendezvous on the loopback. The second is
    killed with all its processes; the first starts again alone, from the last checkpoint."""
    port = free_port()
    settings = dict(NNODES='1:2', RDZV_ENDPOINT=f'127.0.0.1:{port}', RDZV_ID='lost')
    often = ('default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=2')
    first = Launched(shapes, tmp_path, 1, *TWO_EPOCHS, *often, **settings)
    # The first machine holds the rendezvous, which does not outlive it.
    wait_for_port(port)
    second = Launched(shapes, tmp_path, 1, *TWO_EPOCHS, *often, **settings)
    # Rank 0 logs; which machine it is on, the rendezvous decides.
    that_logs(first, second).wait_for(r'Epoch\(train\)\s+\[1\]\[4/5\]')
    second.send_to_all(signal.SIGKILL)
    assert first.finish() == 0, first.text[-4000:]
    assert '2 ranks, 1 micro-batch each' in first.text + second.text
    assert '1 rank, 2 micro-batches each of 2 images, global batch 4' in first.text
    mine, theirs = vector(tmp_path / 'iter_10.pth'), vector(never_stopped / 'epoch_2.pth')
    distance = float((mine - theirs).norm() / theirs.norm())
    print(f'weights within {distance:.1e}')
    # The contract of the global batch, see test_trajectory.py.
    assert distance < 1e-5
    # It went on from the last checkpoint, and did not begin again.
    again = first.text[first.text.index('1 rank, 2 micro-batches') :]
    began = re.search(r'Epoch\(train\)\s+\[(\d)\]\[(\d)/5\]', again).groups()
    # Update 4 may have been logged and not yet saved.
    assert began in {('1', '3'), ('1', '5')}


@pytest.mark.whole
def test_a_divergence_is_not_started_again(shapes, tmp_path):
    """Restarts are for machines. A training at LR 1e8 ends at once, with its own status.

    The short form is test_a_divergence_stops_all_ranks_once in test_under_dist_train.py.
    """
    run = Launched(
        *(shapes, tmp_path, 2, 'optim_wrapper.optimizer.lr=1e8', 'train_cfg.max_epochs=2'),
        *('default_hooks.lr.milestones=[]', 'default_hooks.lr.warmup_iters=0'),
        *('default_hooks.divergence.spike=None',),
        MAX_RESTARTS=3,
        PORT=free_port(),
    )
    assert run.finish() == 3, run.text[-4000:]
    errors = [line for line in run.lines if line.startswith('error: ')]
    assert len(errors) == 1 and errors[0].startswith('error: Diverged at update ')
    assert run.text.count('global batch 4,') == 1
    for path in tmp_path.glob('*.pth'):
        weights = torch.load(path, weights_only=False)['state_dict'].values()
        assert all(weight.isfinite().all() for weight in weights)
