"""A user's mistake ends a tool with one line and exit code 2."""

import json
import re

import pytest
import torch
from helpers.common import ROOT, data_options
from helpers.file_defects import copy_of, edited
from helpers.tools import assert_one_line
from mmdet.registry import HOOKS
from mmengine.hooks import Hook, IterTimerHook

from mmdet_largebatch.cli import processes

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'


def test_no_such_config(train):
    done = train(config='configs/none.py')
    assert_one_line(done, 'config=configs/none.py: no such file.')
    done = train(config='mmdet_largebatch::shapes/none.py')
    assert_one_line(done, 'config=mmdet_largebatch::shapes/none.py: not found (FileNotFoundError')
    assert_one_line(train(config='mmnone::a/b.py'), 'config=mmnone::a/b.py: not found (')


@pytest.mark.parametrize('environment', [{}, dict(CDPATH=str(ROOT))])
def test_no_such_config_is_said_before_processes_are_started(command, environment):
    """With ``CDPATH``, ``cd`` may go elsewhere and prints where."""
    done = command('tools/dist_train.sh', 'configs/none.py', 2, **environment)
    assert_one_line(done, 'config=configs/none.py: no such file.')
    assert 'torch' not in done.stderr


@pytest.mark.parametrize(
    ('option', 'must'),
    [
        ('train_cfg.max_epochs', 'Must be KEY=VALUE, as in'),
        ('=3', 'Must be KEY=VALUE, as in'),
        ('train_cfg.=3', 'Must be KEY=VALUE, as in'),
        ('model.neck.in_channels=[(1,2]', 'Must be KEY=VALUE with each bracket closed.'),
    ],
)
@pytest.mark.parametrize('name', ['train.py', 'plan.py', 'test.py', 'sweep.py', 'branch.py'])
def test_an_option_that_is_not_key_and_value(tool, name, option, must):
    arguments = ['none.pth'] if name == 'test.py' else []
    done = tool(name, RECIPE, *arguments, '--cfg-options', option)
    assert_one_line(done, f'Invalid --cfg-options={option!r}. {must}')


@pytest.mark.parametrize('gpus', ['0', '-1', 'two', ''])
def test_gpus_must_be_a_number(command, gpus):
    assert_one_line(
        command('tools/dist_train.sh', RECIPE, gpus), f'Invalid GPUS={gpus}. Must be a number'
    )


@pytest.mark.parametrize('shell', [(), ('sh',)], ids=['as a command', 'sh'])
@pytest.mark.parametrize(
    'script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh']
)
def test_missing_arguments_are_answered_by_the_usage(command, shell, script):
    done = command(*shell, f'tools/{script}', RECIPE)
    assert done.returncode == 2
    assert done.stderr.startswith('usage: ') and len(done.stderr.splitlines()) == 1


def test_a_launcher_that_is_given_to_sh(command):
    """Debian's `sh` is not bash: it knows neither `pipefail` nor `${@:4}`."""
    done = command('sh', 'tools/dist_test.sh', RECIPE, 'none.pth', 1, '--no-such')
    assert done.returncode == 2 and 'unrecognized arguments: --no-such' in done.stderr
    # sbatch starts slurm_batch.sh by its first line.
    for path in set((ROOT / 'tools').glob('*.sh')) - {ROOT / 'tools/slurm_batch.sh'}:
        text = path.read_text()
        assert 'exec bash "$0" "$@"' in text.split('set -euo pipefail')[0]


VERSION_2 = """
model = dict(type='FasterRCNN')
data = dict(samples_per_gpu=2, train=dict(type='CocoDataset', ann_file='a.json', pipeline=[]))
optimizer = dict(type='SGD', lr=0.02)
lr_config = dict(policy='step', step=[8, 11])
runner = dict(type='EpochBasedRunner', max_epochs=12)
"""


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('train.py', ()),
        ('test.py', ('none.pth',)),
        ('plan.py', ()),
        ('sweep.py', ('--lr', '0.1')),
        ('carry_recipe.py', ('--global-batch', '64')),
    ],
)
def test_a_config_of_mmdetection_2(tool, tmp_path, name, words):
    config = tmp_path / 'config.py'
    config.write_text(VERSION_2)
    line = f'config={config}: of MMDetection 2 (data, optimizer, lr_config, runner). Must be of MMD'
    assert_one_line(tool(name, config, *words), line)


@pytest.mark.parametrize(
    ('name', 'words', 'setting'),
    [
        ('train.py', ['--resume', ''], '--resume'),
        ('train.py', ['--resume='], '--resume'),
        ('train.py', ['--work-dir', ''], '--work-dir'),
        ('train.py', ['--cfg-options', 'load_from='], 'load_from'),
        ('test.py', [''], 'argument 2'),
        ('test.py', ['a.pth', '--out', ''], '--out'),
        ('draw_detections.py', [''], 'argument 2'),
        ('branch.py', [''], 'argument 2'),
        ('branch.py', ['--work-dir', ''], '--work-dir'),
        ('sweep.py', ['--work-dir', ''], '--work-dir'),
        ('plan.py', ['--work-dir', ''], '--work-dir'),
        ('plan.py', ['--like', '', '--gpus', '1'], '--like'),
        ('results.py', ['--out', ''], '--out'),
    ],
)
def test_an_empty_path(tool, name, words, setting):
    """A shell variable that is not set is refused. A training begun anew would overwrite one."""
    done = tool(name, RECIPE, *words)
    assert_one_line(done, f"Invalid {setting}=''. Must be ")


def test_annotations_missing(train, tmp_path):
    done = train(data=tmp_path / 'nowhere')
    assert_one_line(done, 'nowhere/annotations/instances_train.json: no such annotation file.')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{"images": [', 'not readable as JSON'),
        ('', 'not readable as JSON'),
        ('[]', 'no list of images, annotations, categories'),
        (json.dumps(dict(images=[], categories=[])), 'no list of annotations'),
    ],
)
def test_annotations_broken(train, tmp_path, content, message):
    for split in ('train', 'val'):
        path = tmp_path / f'annotations/instances_{split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    done = train(data=tmp_path)
    assert_one_line(done, f'ann_file={tmp_path}/annotations/instances_train.json', message)


def test_a_work_folder_that_cannot_be_written(train):
    """Nobody can make a folder in /proc."""
    done = train(arguments=('--work-dir', '/proc/work'))
    assert_one_line(done, "Invalid work_dir='/proc/work'. Must be a writable folder", '--work-dir')


def test_unknown_backend(train):
    done = train('optim_wrapper.optimizer.backend=cuda')
    assert_one_line(done, "backend='cuda'", "'auto'", "'apex'", "'torch'")


def test_apex_without_nvidias_apex(train):
    done = train('optim_wrapper.optimizer.backend=apex')
    assert_one_line(done, "backend='apex'", "NVIDIA's Apex")


def test_apex_with_the_other_package_of_that_name(train, tmp_path, monkeypatch):
    """PyPI's `apex` has neither `amp_C` nor `apex.optimizers`. This stand-in has neither too."""
    (tmp_path / 'site/apex').mkdir(parents=True)
    (tmp_path / 'site/apex/__init__.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path / 'site')
    done = train('optim_wrapper.optimizer.backend=apex')
    assert_one_line(done, "backend='apex'", "is not NVIDIA's")


def test_misspelt_names(train):
    done = train('optim_wrapper.optimizer.type=LABM')
    assert_one_line(done, 'optim_wrapper.optimizer.type=LABM: no optimizer of this name')
    done = train('default_hooks.lr.type=WarmupStep')
    assert_one_line(done, 'WarmupStep is not in the')


def test_a_global_batch_that_is_no_multiple(train):
    done = train('train_cfg.global_batch_size=17')
    assert_one_line(done, 'train_cfg.global_batch_size=17. Must be a multiple', 'such as 16 or 24')


BY_ITERATION = "_delete_=True, type='GlobalBatchTrainLoop', max_iters=9, global_batch_size=16"


@pytest.mark.parametrize(
    ('setting', 'line'),
    [
        (f'train_cfg = dict({BY_ITERATION})', 'GlobalBatchTrainLoop lacks max_epochs. Must be set'),
        (f'train_cfg = dict({BY_ITERATION}, max_epochs=1)', 'Invalid train_cfg.max_iters=9. Must'),
        (
            "train_cfg = dict(_delete_=True, type='GlobalBatchTrainLoop', max_epochs=1)",
            'GlobalBatchTrainLoop lacks global_batch_size. Must be set in its config.',
        ),
        (
            "custom_hooks = [dict(type='NoiseScaleHook', intervals=9)]",
            'Invalid NoiseScaleHook.intervals=9. Must be left out: NoiseScaleHook does not take it',
        ),
        (
            "default_hooks = dict(lr=dict(_delete_=True, type='WarmupStepLRHook'))",
            'WarmupStepLRHook lacks milestones.',
        ),
        (
            "default_hooks = dict(lr=None)\nparam_scheduler = [dict(type='WarmupStepLR')]",
            'WarmupStepLR lacks warmup_iters, milestones.',
        ),
        (
            "optim_wrapper = dict(optimizer=dict(_delete_=True, type='LARS', weight_decay=0))",
            'LARS lacks lr.',
        ),
        (
            "optim_wrapper = dict(optimizer=dict(_delete_=True, type='LAMB', lr=1), "
            'paramwise_cfg=dict(norm_decay_mult=0.0))',
            'Invalid optim_wrapper.optimizer.weight_decay=None. Must be set with factors of it in',
        ),
        ('optim_wrapper = dict(optimizer=dict(betaz=0))', 'Invalid LAMB.betaz=0. Must be left out'),
        # MMCV's class, from which ours is derived, refuses it.
        (
            "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageOnce', size=1)]))",
            'Invalid LoadImageOnce.size=1. Must be left out',
        ),
        ('model = dict(backbone=dict(detph=18))', 'Invalid ResNet.detph=18. Must be left out'),
    ],
)
def test_an_argument_that_a_class_lacks_or_does_not_take(train, setting, line):
    assert_one_line(train(settings=setting), f'error: {line}')


class Wrong(Hook):
    """A user's hook whose constructor calls another class wrongly."""

    def __init__(self, interval):
        self.inner = IterTimerHook(interval=interval)


def test_a_wrong_call_within_a_constructor_keeps_its_traceback(train, monkeypatch):
    monkeypatch.setitem(HOOKS.module_dict, 'Wrong', Wrong)
    done = train('custom_hooks=[{"type":"Wrong","interval":1}]')
    assert done.returncode == 1 and 'Traceback' in done.stderr


def test_another_runner(train):
    done = train('runner_type=FlexibleRunner')
    assert_one_line(done, "Invalid runner_type='FlexibleRunner'. Must be Runner or a class derived")


def test_an_empty_dataset(train):
    done = train('train_dataloader.dataset.filter_cfg.min_size=999')
    assert_one_line(done, 'train_dataloader.dataset has 0 images')


def test_bad_learning_rate_and_schedule(train):
    done = train('optim_wrapper.optimizer.lr=-0.1')
    assert_one_line(done, 'Invalid lr=-0.1. Must be >= 0.0.')
    done = train('default_hooks.lr.warmup_iters=9999')
    assert_one_line(done, 'warmup_iters=9999')


def test_auto_scale_lr(train):
    done = train(arguments=('--auto-scale-lr',))
    assert_one_line(done, 'Invalid auto_scale_lr=None. Must be dict(base_batch_size=N)')


def started_by(monkeypatch, launcher):
    """Set the variables of a launcher, as for the only process that it starts."""
    for name in processes.VARIABLES[launcher]:
        monkeypatch.setenv(name, '1' if name.endswith(('SIZE', 'NTASKS')) else '0')
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')


def test_amp_and_slurm_without_a_gpu(train, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip('with a GPU both are valid')
    started_by(monkeypatch, 'slurm')
    assert_one_line(train(arguments=('--amp',)), 'needs a GPU')
    done = train(arguments=('--launcher', 'slurm'))
    assert_one_line(done, '--launcher slurm needs a GPU')


def number_from_zero(content):
    for index, row in enumerate(content['annotations']):
        row['id'] = index


@pytest.mark.parametrize(
    ('launcher', 'variable'),
    [('slurm', 'SLURM_LOCALID'), ('mpi', 'OMPI_COMM_WORLD_LOCAL_RANK')],
)
def test_one_rank_of_a_machine_prints(train, shapes, tmp_path, monkeypatch, launcher, variable):
    """All ranks check: Slurm does not end those that wait for one that has refused."""
    # As each run sets LOCAL_RANK itself.
    monkeypatch.setenv('LOCAL_RANK', '0')
    started_by(monkeypatch, launcher)
    data = copy_of(shapes, tmp_path / 'data')
    edited(data, 'val', number_from_zero)
    unused = ('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=True')
    for option, words, kinds in (
        (unused, ('--work-dir', '/proc/work'), ['note', 'warning', 'error']),
        (['model'], (), ['error']),
        ([], ('--epochs', '3'), ['usage', 'error']),
    ):
        printed = []
        for rank in ('0', '1'):
            monkeypatch.setenv(variable, rank)
            done = train(*option, data=data, arguments=('--launcher', launcher, *words))
            assert done.returncode == 2, done.stderr
            printed.append(done.stderr)
        first, other = printed
        found = re.findall('^(?:train.py: )?(note|warning|usage|error): ', first, re.MULTILINE)
        assert (found, other) == (kinds, '')


@pytest.mark.slow
def test_as_a_process_one_line_and_any_other_error_its_traceback(tool, shapes, tmp_path):
    words = ('train.py', RECIPE, '--work-dir', tmp_path, '--cfg-options')
    options = data_options(shapes)
    done = tool(*words, *options, 'optim_wrapper.optimizer.backend=cuda', process=True)
    assert_one_line(done, "backend='cuda'")
    # In the first forward pass.
    options = [*options, 'default_hooks.lr.warmup_iters=1', 'model.rpn_head.in_channels=63']
    done = tool(*words, *options, process=True)
    assert done.returncode == 1 and 'Traceback' in done.stderr
