"""tools/branch.py on a quadratic with a known edge of stability, by real trainings."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.common import PYTHONPATH, unpadded
from helpers.quadratic import config
from helpers.tools import stopped_by_ctrl_c

from mmdet_largebatch.results import read_run
from mmdet_largebatch.tuning.comparison import Curve, compare
from mmdet_largebatch.tuning.stages import stages

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def helpers_for_trainings(monkeypatch):
    """The trainings that the tool starts import the quadratic."""
    monkeypatch.setenv('PYTHONPATH', PYTHONPATH)


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp('recipe') / 'quadratic.py'
    path.write_text(config())
    return path


@pytest.fixture(scope='module')
def trained(recipe, tool, tmp_path_factory):
    """A work folder with epoch_1.pth (30 updates) and restart_40.pth."""
    folder = tmp_path_factory.mktemp('trained')
    options = ('--cfg-options', 'train_cfg.max_updates=40')
    tool('train.py', recipe, '--work-dir', folder, *options).check_returncode()
    return folder


def branches_of(folder):
    return pd.read_csv(folder / 'results/branches.csv')


def losses_of(folder, value):
    losses = pd.read_csv(folder / 'results/losses.csv', float_precision='round_trip')
    return losses[losses.iloc[:, 0] == value].loss.to_numpy()


@pytest.fixture(scope='module')
def over_lrs(recipe, trained, tool, tmp_path_factory):
    """Branches with LRs on both sides of the edge, which is 2 (1 + 0.9) = 3.8."""
    folder = tmp_path_factory.mktemp('lrs')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', PYTHONPATH)
        words = (recipe, trained / 'restart_40.pth', '--lr', 4, 0.125, 2, '--updates', 40)
        more = ('--decay-updates', 20, '--jobs', 2, '--work-dir', folder)
        return folder, tool('branch.py', *words, *more)


def test_the_edge_of_stability_is_found(over_lrs):
    folder, done = over_lrs
    assert done.returncode == 0, done.stderr
    assert 'Edge of stability: between LR 2 and 4.' in done.stdout
    assert (
        'Suggested LR: 0.125, the largest LR within one standard error of the best' in done.stdout
    )
    assert '\n    optim_wrapper = dict(optimizer=dict(lr=0.125))\n' in done.stdout
    frame = branches_of(folder)
    assert list(frame.lr) == [0.125, 2, 4]
    assert list(frame.status) == ['done', 'done', 'diverged']
    assert list(frame.updates[:2]) == [40, 40] and list(frame.decay_updates) == [20, 20, 0]
    assert list(frame.images[:2]) == [480, 480]
    row = f'| 0.125 | 8 | 40 + 20 | 480 | {frame.loss[0]:.4f} | +0.0000 (0.0000) | done |'
    assert row in unpadded(done.stdout)
    assert (folder / 'results/branches.png').stat().st_size > 10_000


def test_branches_begin_with_the_same_weights_and_images(over_lrs, trained):
    """The first loss of each is the loss of the checkpoint, the later ones are not."""
    folder, _ = over_lrs
    first, other, diverged = (losses_of(folder, lr) for lr in (0.125, 2, 4))
    assert first[0] == other[0] == diverged[0] and first[1] != other[1]


def test_a_branch_is_the_run_with_this_lr_and_then_a_tenth(
    over_lrs, recipe, trained, tool, tmp_path
):
    """train.py resumes the checkpoint, with LR and decay after update 80 on the command line."""
    options = (
        'train_cfg.max_updates=100',
        # Of 30 updates an epoch: 80 / 30, rounded to whole updates by the hook.
        'default_hooks.lr.milestones=[2.6667]',
        'default_hooks.lr.warmup_iters=0',
        'default_hooks.logger.interval=1',
        'log_processor.type=LogProcessor',
        'log_processor.window_size=1',
        'optim_wrapper.optimizer.lr=2',
    )
    words = (recipe, '--work-dir', tmp_path, '--resume', trained / 'restart_40.pth')
    tool('train.py', *words, '--cfg-options', *options).check_returncode()
    expected = [one.loss for one in read_run(tmp_path).updates]
    assert list(losses_of(over_lrs[0], 2)) == expected and len(expected) == 60


def test_the_same_command_goes_on_and_more_updates_extend_the_branches(
    over_lrs, recipe, trained, tool
):
    folder, _ = over_lrs

    def starts():
        return {lr: len(list((folder / f'lr{lr}').glob('2*_*'))) for lr in ('0.125', '2', '4')}

    counted = starts()
    before = {lr: losses_of(folder, lr) for lr in (0.125, 2)}
    words = (recipe, trained / 'restart_40.pth', '--lr', 4, 0.125, 2, '--jobs', 2)
    more = ('--updates', 44, '--decay-updates', 0, '--work-dir', folder)
    done = tool('branch.py', *words, *more)
    assert done.returncode == 0, done.stderr
    for lr, losses in before.items():
        longer = losses_of(folder, lr)
        assert len(longer) == 44 and list(longer[:40]) == list(losses[:40])
    # The diverged branch is not trained again.
    assert starts() == {lr: count + (lr != '4') for lr, count in counted.items()}


@pytest.mark.parametrize('lrs', [(0.125, 2), (0.25, 1)])
def test_another_checkpoint_in_the_same_folder_is_refused(over_lrs, recipe, trained, tool, lrs):
    """Also with LRs that have no branch in the folder yet."""
    folder, _ = over_lrs
    start = (folder / 'start.pth').read_bytes()
    done = tool('branch.py', recipe, trained / 'epoch_1.pth', '--lr', *lrs, '--work-dir', folder)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert line == (
        f'error: --work-dir {folder} holds trainings with other settings: branch_from is '
        f'{trained}/epoch_1.pth, update 30 now and was {trained}/restart_40.pth, update 40. Must '
        'be another folder, or the same settings.'
    )
    assert not list(folder.glob('lr0.25*')) and (folder / 'start.pth').read_bytes() == start


def test_ctrl_c_saves_and_the_same_command_goes_on(recipe, tool, tmp_path):
    """Without a checkpoint the recipe is warmed up first. Two branches of 20,000 updates stop."""
    words = ('--decay-updates', 0, '--work-dir', tmp_path / 'a', '--jobs', 2)
    line = [recipe, '--lr', 0.01, 0.02, *words, '--updates']
    outputs = [tmp_path / f'a/lr{lr}/output.txt' for lr in ('0.01', '0.02')]
    status, errors = stopped_by_ctrl_c('branch.py', *line, 20000, outputs=outputs)
    assert status == 130
    assert 'Stopped (SIGINT): 1 of 3 runs are finished. The same command goes on.' in errors
    done = {lr: read_run(tmp_path / f'a/lr{lr}').updates[-1].update for lr in ('0.01', '0.02')}
    # The recipe's warmup has 10 updates; 10 more after the stop.
    updates = max(done.values())
    finished = tool('branch.py', *line, updates)
    assert finished.returncode == 0, finished.stderr
    assert len(losses_of(tmp_path / 'a', 0.01)) == len(losses_of(tmp_path / 'a', 0.02)) == updates
    for lr, update in done.items():
        starts = sorted((tmp_path / f'a/lr{lr}').glob('2*_*'))
        assert len(starts) == 2, (lr, update)


def test_batches_are_compared_from_an_epochs_end(recipe, trained, tool, tmp_path):
    """From the checkpoint of batch 8 with 30 updates an epoch; 60 at batch 4 and 10 at 24."""
    batches = ('--global-batch', 24, 4, '--updates', 40, '--decay-updates', 20, '--jobs', 2)
    words = (*batches, '--work-dir', tmp_path)
    done = tool('branch.py', recipe, trained / 'epoch_1.pth', *words)
    assert done.returncode == 0, done.stderr
    frame = branches_of(tmp_path)
    assert list(frame.global_batch) == [4, 24]
    # Linear rule of SGD from LR 0.05 at batch 8.
    np.testing.assert_allclose(frame.lr, [0.025, 0.15])
    assert list(frame.updates) == [240, 40] and list(frame.decay_updates) == [120, 20]
    assert list(frame.images) == [1440, 1440]
    assert 'Largest batch within 1 % of the loss of batch 4: ' in done.stdout
    assert '\n    train_cfg = dict(global_batch_size=' in done.stdout
    assert {one.update for one in read_run(tmp_path / 'batch24').updates} == set(range(11, 51))
    assert {one.update for one in read_run(tmp_path / 'batch4').updates} == set(range(61, 301))

    refused = tool('branch.py', recipe, trained / 'restart_40.pth', *words)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1] == (
        f"error: Invalid CHECKPOINT='{trained / 'restart_40.pth'}'. Must be of an epoch's end: it "
        'is of update 40 of a run with 30 updates an epoch, and the branches have 60.'
    )


def test_batches_that_all_diverge_say_so(recipe, trained, tool, tmp_path):
    words = ('--global-batch', 4, 8, '--lr', 1e30, '--updates', 40, '--work-dir', tmp_path)
    done = tool('branch.py', recipe, trained / 'epoch_1.pth', *words, '--jobs', 2)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert list(branches_of(tmp_path).status) == ['diverged', 'diverged']
    assert '\nThe smallest batch 4 diverged: there is nothing to compare the others' in done.stdout


def test_halving_drops_the_worse_half(recipe, trained, tool, tmp_path):
    words = (recipe, trained / 'epoch_1.pth', '--lr', 0.01, 0.05, 0.2, '--updates', 80, '--halving')
    more = ('--decay-updates', 0, '--jobs', 2, '--work-dir', tmp_path)
    done = tool('branch.py', *words, *more)
    assert done.returncode == 0, done.stderr
    frame = branches_of(tmp_path)
    assert sorted(frame.updates) == [40, 80, 80]
    [dropped] = frame[frame.updates == 40].index
    assert frame.status[dropped] == 'dropped after 40 updates'
    # In the second half of the first 40 updates it is the worst.
    assert np.argmax([losses_of(tmp_path, lr)[20:40].mean() for lr in frame.lr]) == dropped

    # At batch 4 the end of epoch 1 is update 60.
    words = (recipe, trained / 'epoch_1.pth', '--lr', 0.3, 0.4, '--work-dir', tmp_path)
    refused = tool('branch.py', *words, '--cfg-options', 'train_cfg.global_batch_size=4')
    assert refused.returncode == 2
    assert 'epoch_1.pth, update 30 as update 60 now and was' in refused.stderr.splitlines()[-1]


def test_stages():
    """Successive halving of 7 branches: 7 for 50 updates, 4 for 100, 2 for 200."""
    assert stages(7, 200, 0) == [(7, 50, 0), (4, 100, 0), (2, 200, 0)]
    assert stages(2, 100, 50) == [(2, 100, 50)]
    # No stage is shorter than 40 updates, and no decay than 20.
    assert stages(7, 100, 80) == [(7, 50, 40), (4, 100, 80)]
    assert stages(7, 200, 24) == [(7, 50, 20), (4, 100, 20), (2, 200, 24)]


@pytest.mark.parametrize('decay', [0, 20, 37, 50])
def test_each_stage_is_long_enough_to_be_compared(decay):
    for _, updates, decayed in stages(7, 163, decay):
        losses = np.linspace(3, 2, updates + decayed)
        curves = [Curve(lr, lr, 8, losses + lr, decayed=decayed) for lr in (0.1, 0.2)]
        assert [one.difference for one in compare(curves)] == [0, pytest.approx(0.1)]


@pytest.mark.parametrize(
    ('options', 'words', 'message'),
    [
        (
            {'train_cfg': "dict(type='EpochBasedTrainLoop', max_epochs=4)"},
            ['--lr', 1, 2],
            "Invalid train_cfg.type='EpochBasedTrainLoop'. Must be 'GlobalBatchTrainLoop', whose",
        ),
        (
            {},
            ['--global-batch', 8, 10],
            'Invalid train_cfg.global_batch_size=10. Must be a multiple',
        ),
        (
            {'optim_wrapper': "dict(type='OptimWrapper', optimizer=dict(type='Rprop', lr=0.1))"},
            ['--global-batch', 8, 16],
            'Invalid --lr-rule=None. Must be linear or sqrt: no rule is known for the LR of Rprop.',
        ),
        (
            {'param_scheduler': "[dict(type='OneCycleLR', eta_max=0.1, total_steps=120)]"},
            ['--lr', 1, 2],
            'Invalid param_scheduler.0.eta_max=0.1. Must be left out in branches, as in a schedule',
        ),
        ({}, ['--lr', 1], 'error: --lr needs two LRs or more'),
        ({}, ['--global-batch', 8, 16, '--halving'], '--halving cannot be combined with'),
        ({}, ['--lr', 1, 2, '--updates', 5], 'argument --updates: 5 is below 40'),
    ],
)
def test_a_mistake_is_one_line(tool, trained, tmp_path, options, words, message):
    lines = [f'{name} = {value}\n' for name, value in options.items()]
    (tmp_path / 'config.py').write_text(config() + ''.join(lines))
    checkpoint = trained / 'epoch_1.pth'
    words = (tmp_path / 'config.py', checkpoint, *words, '--work-dir', tmp_path / 'work')
    done = tool('branch.py', *words)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1] and 'Traceback' not in done.stderr
    assert not list((tmp_path / 'work').glob('lr*'))


def test_weights_and_broken_files_are_refused(recipe, trained, tool, tmp_path):
    weights = torch.load(trained / 'epoch_1.pth', weights_only=False)['state_dict']
    torch.save(dict(state_dict=weights), tmp_path / 'weights.pth')
    (tmp_path / 'empty.pth').touch()
    for name, message in (
        ('weights.pth', 'a checkpoint of a training, with its optimizer; left out, the recipe is'),
        ('empty.pth', 'a valid checkpoint: it is empty'),
    ):
        path = tmp_path / name
        done = tool('branch.py', recipe, path, '--lr', 1, 2, '--work-dir', tmp_path / 'work')
        assert done.returncode == 2
        assert f"Invalid CHECKPOINT='{path}'. Must be {message}" in done.stderr.splitlines()[-1]
    done = tool('branch.py', recipe, tmp_path / 'none.pth', '--lr', 1, 2)
    assert done.stderr.splitlines()[-1] == (
        f'error: CHECKPOINT={tmp_path / "none.pth"}: no such checkpoint.'
    )
