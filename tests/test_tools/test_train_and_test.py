"""The whole path on real files: two processes train, then a checkpoint is evaluated."""

import json
import re

import pytest
from helpers.common import ROOT, data_options
from helpers.forked import free_port

pytestmark = pytest.mark.multiprocess

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


def logged(text):
    """Return the box and mask AP of each evaluation in a log."""
    return re.findall(r'coco/bbox_mAP: ([\d.]+).*coco/segm_mAP: ([\d.]+)', text)


SHORT = [
    *('train_cfg.max_epochs=2', 'default_hooks.lr.milestones=[1]'),
    *('default_hooks.lr.warmup_iters=2', 'default_hooks.logger.interval=1'),
]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, shapes, command):
    """Train two epochs of two updates on two processes; return the process and the work folder."""
    work = tmp_path_factory.mktemp('work')
    done = command(
        *('tools/dist_train.sh', RECIPE, 2, '--work-dir', work),
        *('--cfg-options', *data_options(shapes), *SHORT),
        PORT=str(free_port()),
    )
    assert done.returncode == 0, done.stderr
    return done, work


def test_log_says_what_runs(trained):
    text = trained[0].stdout
    assert '2 ranks, 1 micro-batch each of 8 images, global batch 16, 2 updates an epoch' in text
    assert 'LAMB runs on PyTorch: ' in text
    assert 'collect_device' not in text
    # Warmup over 2 updates from 0.001 x to all of it, then a tenth: epoch 1 begins at update 2.
    lr = float(re.search(r'LR ([\d.e-]+) as configured', text).group(1))
    rates = [float(x) for x in re.findall(r'Epoch\(train\).*?\blr: ([\d.e+-]+)', text)]
    assert rates == pytest.approx([lr / 1000, lr, lr / 10, lr / 10], rel=1e-4)


@pytest.fixture
def planned(tool, shapes):
    """Run `plan.py` for the trained recipe; return its output."""

    def run(*words, options=()):
        options = (*data_options(shapes), *SHORT, *options)
        done = tool('plan.py', RECIPE, *words, '--cfg-options', *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_plan_is_what_the_training_recorded(trained, planned):
    """Every figure of largebatch.json that a plan has too, by the same name."""
    (path,) = trained[1].glob('*/largebatch.json')
    record = json.loads(path.read_text())
    plan = json.loads(planned('--gpus', 2, '--json', '--work-dir', trained[1]))
    shared = set(plan) & set(record)
    assert set(record) - shared == {'version', 'stack', 'begins_at', 'ended'}
    # The recipe has no seed: that of the record was drawn.
    assert {key: plan[key] for key in shared - {'seed'}} == {
        key: record[key] for key in shared - {'seed'}
    }
    assert plan['earlier_starts'] == [dict(start=path.parent.name, **record)]
    assert plan['resume_changes'] == {}


def test_the_plan_says_how_earlier_starts_ended_and_what_a_resume_changes(
    trained, planned, tmp_path
):
    (path,) = trained[1].glob('*/largebatch.json')
    record = json.loads(path.read_text())
    # A killed run leaves the record of its start, without an end.
    killed = tmp_path / path.parent.name / path.name
    killed.parent.mkdir()
    killed.write_text(json.dumps(dict(record, ended=None)))
    later = tmp_path / '29991231_235959' / path.name
    later.parent.mkdir()
    later.write_text(json.dumps(dict(record, begins_at=2)))
    lr = record['lr']
    options = [f'optim_wrapper.optimizer.lr={2 * lr}', 'train_cfg.global_batch_size=8']
    text = planned('--gpus', 1, '--work-dir', tmp_path, options=options)
    first = text.index('earlier starts ')
    lines = [line[17:] for line in text[first:].splitlines()[:3]]
    figures = f'ranks 2, global_batch 16, lr {lr}'
    assert lines[0] == (
        f'{path.parent.name}: {figures}, from update 0; no end recorded: still running, or killed'
    )
    assert lines[1] == f'29991231_235959: {figures}, from update 2; done at update 4'
    assert 'ranks 2 -> 1, global_batch 16 -> 8, ' in lines[2]
    assert f', lr {lr} -> {2 * lr}' in lines[2]
    # 20 pictures are 2 updates of 16 or 3 of 8.
    assert 'updates_per_epoch 2 -> 3, ' in lines[2]
    assert lines[2].endswith('(refused: updates_per_epoch must be the same to resume)')
    assert 'earlier starts' not in planned('--gpus', 1, '--work-dir', tmp_path / 'none')


def test_each_epoch_is_saved_and_evaluated(trained):
    done, work = trained
    assert [path.name for path in sorted(work.glob('*.pth'))] == ['epoch_1.pth', 'epoch_2.pth']
    assert len(logged(done.stdout)) == 2


def test_evaluation_alone_gives_the_same_ap_on_one_and_on_two_processes(
    trained, shapes, command, tool
):
    done, work = trained
    options = ('--cfg-options', *data_options(shapes))
    one = tool(
        *('test.py', RECIPE, work / 'epoch_2.pth', '--work-dir', work / '1'),
        *('--out', work / 'found.pkl', *options),
    )
    two = command(
        *('tools/dist_test.sh', RECIPE, work / 'epoch_2.pth', 2, '--work-dir', work / '2'),
        *options,
        PORT=str(free_port()),
    )
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert logged(one.stdout) == logged(two.stdout) == logged(done.stdout)[-1:]
    assert (work / 'found.pkl').stat().st_size > 0


def test_detections_are_drawn(trained, tool):
    work = trained[1]
    cfg = next(work.glob('*.py'))
    done = tool(
        *('draw_detections.py', cfg, work / 'epoch_2.pth'),
        *('--out', work / 'drawn.png', '--pictures', 3, '--score', 0),
        process=True,
    )
    assert done.returncode == 0, done.stderr
    assert (work / 'drawn.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize(
    ('script', 'words', 'tool_words'),
    [
        ('slurm_train.sh', [RECIPE, 'work'], ['train.py', RECIPE, '--work-dir=work']),
        ('slurm_test.sh', [RECIPE, 'a.pth'], ['test.py', RECIPE, 'a.pth']),
    ],
)
def test_slurm(command, tmp_path, script, words, tool_words):
    """A stand-in for `srun` prints its arguments. That proves the command, not Slurm."""
    stand_in = tmp_path / 'srun'
    stand_in.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    stand_in.chmod(0o755)
    done = command(
        *('env', f'PATH={tmp_path}:/usr/bin:/bin', f'tools/{script}', 'gpu', 'job', *words),
        *('--cfg-options', 'x=1'),
        GPUS='64',
        SRUN_ARGS='--time=1:00:00 --requeue',
    )
    assert done.stdout.splitlines() == [
        *('-p', 'gpu', '--job-name=job', '--gres=gpu:8', '--ntasks=64', '--ntasks-per-node=8'),
        *('--cpus-per-task=5', '--kill-on-bad-exit=0', '--wait=120'),
        *('--time=1:00:00', '--requeue'),
        *('python', '-u', f'{ROOT}/tools/{tool_words[0]}', *tool_words[1:]),
        *('--cfg-options', 'x=1', '--launcher', 'slurm'),
    ]


def test_metrics_are_written_as_json(trained):
    """MMEngine's scalars.json has one JSON object a line."""
    lines = next(trained[1].glob('*/vis_data/scalars.json')).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert sum('coco/bbox_mAP' in record for record in records) == 2
    assert sum('loss_mask' in record for record in records) == 4
