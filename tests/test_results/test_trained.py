"""Real runs, read back. Expected values are parsed from their text logs."""

import csv
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import mmdet
import pytest
from helpers.common import ROOT, data_options

from mmdet_largebatch.results import read_run

pytestmark = pytest.mark.slow

RECIPE = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
# A process of its own; the project's tool runs in this one.
MMDET_TRAIN = Path(mmdet.__file__).parent / '.mim/tools/train.py'
SMALL = [
    'train_dataloader.dataset.pipeline.2.scale=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(64,64)',
    'train_dataloader.batch_size=2',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')),
]
# 20 images in updates of 2 on 1 rank. AdamW: SGD detects nothing after 30 updates.
STOCK = f"""
_base_ = '{RECIPE}'
custom_imports = None
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=3, val_interval=1)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=5),
    dict(type='MultiStepLR', begin=0, end=3, by_epoch=True, milestones=[2]),
]
default_hooks = dict(
    _delete_=True,
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=5),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
"""
# 20 images in updates of 4.
OURS = [
    'train_cfg.global_batch_size=4',
    'default_hooks.lr.warmup_iters=2',
    'default_hooks.lr.milestones=[]',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.by_epoch=False',
    'default_hooks.checkpoint.interval=3',
    'default_hooks.checkpoint.max_keep_ckpts=-1',
]


@pytest.fixture(scope='module')
def train(command, tool, shapes):
    """Run a training script on the shapes and return the finished process."""
    starts = []

    def run(script, config, work_dir, *options, arguments=(), status=0):
        words = (config, '--work-dir', work_dir, *arguments, '--cfg-options')
        # A process keeps one visualizer of each name, in its first folder.
        starts.append(f'visualizer.name=start_{len(starts)}')
        words += (*data_options(shapes), *SMALL, starts[-1], *options)
        stock = script == MMDET_TRAIN
        done = command(sys.executable, script, *words) if stock else tool(script, *words)
        assert done.returncode == status, done.stderr[-3000:]
        return done

    return run


@pytest.fixture(scope='module')
def stock(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp('stock')
    (folder / 'config.py').write_text(STOCK)
    train(MMDET_TRAIN, folder / 'config.py', folder / 'stock')
    return folder / 'stock'


@pytest.fixture(scope='module')
def resumed(train, tmp_path_factory):
    """Two epochs of 5 updates with checkpoints at 3, 6, 9; resumed at 6 to the end of epoch 3."""
    folder = tmp_path_factory.mktemp('ours') / 'resumed'
    train('train.py', RECIPE, folder, *OURS, 'train_cfg.max_epochs=2')
    arguments = ('--resume', folder / 'iter_6.pth')
    train('train.py', RECIPE, folder, *OURS, 'train_cfg.max_epochs=3', arguments=arguments)
    return folder


@pytest.fixture(scope='module')
def diverged(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp('ours') / 'diverged'
    options = ['optim_wrapper.optimizer.lr=1000.0', 'optim_wrapper.optimizer.type=SGD']
    options += [*OURS, 'default_hooks.lr.warmup_iters=0', 'train_cfg.max_epochs=2']
    done = train('train.py', RECIPE, folder, *options, status=3)
    return folder, int(re.search(r'Diverged at update (\d+) of 10', done.stderr).group(1))


def logs(work_dir):
    """Return the text logs of the starts, oldest first."""
    return [path.read_text() for path in sorted(work_dir.glob('*/*.log'))]


def logged_ap(text):
    """Return epoch, box AP and mask AP of each evaluation in the text log.

    Where nothing was detected it prints none.
    """
    lines = re.findall(r'Epoch\(val\) +\[(\d+)\]\[\d+/\d+\] +(?! |eta)(.*)', text)
    names = ('coco/bbox_mAP', 'coco/segm_mAP')
    return [
        (int(epoch), *(float(x.group(1)) if (x := ap(name, rest)) else None for name in names))
        for epoch, rest in lines
    ]


def ap(name, line):
    return re.search(rf'{name}: ([\d.]+)', line)


def ended(text):
    """Return the status of a finished run; whether anything is detected depends on the CPU."""
    _, box, _ = logged_ap(text)[-1]
    return 'done' if box is not None else 'done, the last evaluation found nothing'


def read_ap(run):
    return [(one.epoch, one.box_ap, one.mask_ap) for one in run.evaluations]


def test_mmdets_own_train_py_gives_the_ap_of_its_log(stock):
    run = read_run(stock)
    expected = logged_ap(logs(stock)[0])
    assert [epoch for epoch, _, _ in expected] == [1, 2, 3]
    assert any(box > 0 and mask > 0 for _, box, mask in expected)
    assert read_ap(run) == expected
    assert (run.status, run.epochs_done, run.epochs) == ('done', 3, 3)
    # From the config above: 1 rank of 2 images.
    assert (run.optimizer, run.lr, run.global_batch, run.ranks) == ('AdamW', 0.001, 2, (1,))
    assert (run.warmup_updates, run.seed, run.updates_per_epoch) == (5, 0, 10)


def test_losses_and_times_are_those_of_the_text_log(stock):
    """The log prints 4 decimals."""
    run, line = read_run(stock), r'Epoch\(train\).* time: ([\d.]+) .* loss: ([\d.]+)'
    expected = [(float(time), float(loss)) for time, loss in re.findall(line, logs(stock)[0])]
    assert [(round(one.seconds, 4), round(one.loss, 4)) for one in run.updates] == expected
    assert [one.update for one in run.updates] == [5, 10, 15, 20, 25, 30]
    # Each logged mean counts for 5 updates of 2 images.
    assert run.training_seconds == pytest.approx(sum(5 * time for time, _ in expected), rel=1e-3)
    times = sorted(time for time, _ in expected)
    assert run.images_per_second == pytest.approx(2 / (times[2] / 2 + times[3] / 2), rel=1e-3)


def test_a_resumed_run_is_joined_where_it_went_on(resumed):
    run = read_run(resumed)
    first, second = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(resumed.glob('*/vis_data/scalars.json'))
    ]
    # No two starts log the same times, so the times identify the start of each update.
    expected = {record['iter']: record['time'] for record in first if record.get('iter', 99) <= 6}
    expected |= {record['iter']: record['time'] for record in second if 'iter' in record}
    assert list(expected) == list(range(1, 16))
    assert {one.update: one.seconds for one in run.updates} == expected
    # Both starts evaluated epoch 2; the second evaluation counts.
    log_of_first, log_of_second = logs(resumed)
    assert [epoch for epoch, _, _ in logged_ap(log_of_first)] == [1, 2]
    assert [epoch for epoch, _, _ in logged_ap(log_of_second)] == [2, 3]
    assert read_ap(run) == logged_ap(log_of_first)[:1] + logged_ap(log_of_second)
    assert (run.status_text, run.epochs, run.updates_per_epoch) == (ended(log_of_second), 3, 5)
    assert (run.global_batch, run.ranks, run.warmup_updates) == (4, (1,), 2)


def test_the_quickstart_prints_a_line_for_each_epoch_and_keeps_the_log(resumed, tmp_path):
    text = logs(resumed)[1]
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/epoch_lines.py', tmp_path / 'log'],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (tmp_path / 'log').read_text() == text
    losses = {
        record['epoch']: record['loss']
        for line in sorted(resumed.glob('*/vis_data/scalars.json'))[1].read_text().splitlines()
        if 'iter' in (record := json.loads(line))
    }
    lines = done.stdout.splitlines()
    # Resumed after the first update of epoch 2, whose evaluation is the first.
    assert [int(re.match(r'epoch +(\d+): loss ', line)[1]) for line in lines] == [2, 3]
    for line, (epoch, box, mask) in zip(lines, logged_ap(text), strict=True):
        printed = [f'{x:.4f}' if x is not None else '-' for x in (box, mask)]
        said = re.search(r'loss (\S+), box AP (\S+), mask AP (\S+), time left ', line).groups()
        assert said == (f'{losses[epoch]:.4f}', *printed)


def test_each_start_records_what_it_resolved_and_how_it_ended(resumed, diverged):
    """Settings as above: 20 images make 5 updates of 4, in micro-batches of 2."""
    first, second = [
        json.loads(path.read_text()) for path in sorted(resumed.glob('*/largebatch.json'))
    ]
    resolved = dict(ranks=1, global_batch=4, micro_batch=2, micro_batches=2, updates_per_epoch=5)
    resolved |= dict(optimizer='LAMB', lr=0.01, warmup_updates=2, milestones=[], seed=0)
    assert {key: first[key] for key in resolved} == resolved
    assert {key: second[key] for key in resolved} == resolved
    assert [(one['begins_at'], one['updates']) for one in (first, second)] == [(0, 10), (6, 15)]
    ends = [(one['ended']['how'], one['ended']['update']) for one in (first, second)]
    assert ends == [('done', 10), ('done', 15)]
    assert first['stack']['torch'] == metadata.version('torch') == second['stack']['torch']
    folder, update = diverged
    [path] = folder.glob('*/largebatch.json')
    ended = json.loads(path.read_text())['ended']
    assert (ended['how'], ended['update']) == ('diverged', update)


def test_the_tool_lists_all_of_them_and_the_diverged_one(stock, resumed, diverged, tool, tmp_path):
    folder, update = diverged
    words = (stock, resumed, folder, '--out', tmp_path / 'out')
    done = tool('results.py', *words, process=True)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / 'out/results.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['run'] for row in rows] == ['stock', 'resumed', 'diverged']
    expected = [ended(logs(stock)[0]), ended(logs(resumed)[1]), f'diverged at update {update}']
    assert [row['status'] for row in rows] == expected
    assert (rows[2]['lr'], rows[2]['epochs_done'], rows[2]['box_ap']) == ('1000.0', '0', '')
    assert re.search(rf'\| +diverged at update {update} +\|', done.stdout)
    _, box, mask = logged_ap(logs(stock)[0])[-1]
    assert (float(rows[0]['box_ap']), float(rows[0]['mask_ap'])) == (box, mask)
    with open(tmp_path / 'out/ap_by_epoch.csv', newline='') as file:
        by_epoch = [row for row in csv.DictReader(file) if row['run'] == 'stock']
    read = [(int(x['epoch']), float(x['box_ap']), float(x['mask_ap'])) for x in by_epoch]
    assert read == logged_ap(logs(stock)[0])
    assert (tmp_path / 'out/curves.png').read_bytes().startswith(b'\x89PNG')
    assert not (tmp_path / 'out/heatmap.png').exists()


@pytest.mark.parametrize(
    ('box', 'epochs', 'said'),
    [
        # Mean 0.82, standard deviation 0.02, and 4.303, the 97.5 % quantile of Student's t with 2
        # degrees of freedom (any table): 0.82 +- 4.303 x 0.02 x sqrt(4/3).
        (0.919, 12, '0.721 to 0.919 over 3 seeds, so this is as expected'),
        (0.92, 12, '0.721 to 0.919 over 3 seeds, so this is not as expected: see docs/results.md'),
        (0.1, 1, 'not known for so few epochs'),
    ],
)
def test_the_quickstart_says_whether_its_ap_is_as_expected(tmp_path, box, epochs, said):
    rows = [('LAMB', 0.80), ('LAMB', 0.82), ('LAMB', 0.84), ('SGD', 0.1)]
    table = ['optimizer,epochs,box_ap,mask_ap', *(f'{kind},12,{ap},0.5' for kind, ap in rows)]
    (tmp_path / 'table.csv').write_text('\n'.join(table))
    # Of an earlier epoch, and of the last evaluation.
    (tmp_path / 'log').write_text(f'coco/bbox_mAP: 0.2000\ncoco/bbox_mAP: {box:.4f}\n')
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/expected_ap.py', 'log', 'table.csv', str(epochs)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        f'== box  AP  {box:.3f} (expected: {said})',
        '== mask AP  none: no object was found',
    ]
