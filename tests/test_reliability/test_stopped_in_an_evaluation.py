"""A detector with averaged weights, trained as a user types it and told to go in an evaluation."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers.common import ROOT, data_options
from helpers.forked import free_port
from helpers.small_training import load, same

pytestmark = pytest.mark.slow

CONFIG = f"""
_base_ = '{ROOT}/configs/miniature/mask-rcnn_r18_fpn_1xb16-lamb-1x_miniature.py'
train_cfg = dict(max_epochs=2, global_batch_size=10, val_interval=1)
train_dataloader = dict(batch_size=5)
default_hooks = dict(
    lr=dict(warmup_iters=2, milestones=[1]), checkpoint=dict(interval=2, max_keep_ckpts=-1)
)
custom_hooks = [
    dict(
        type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01, update_buffers=True, priority=49
    ),
]
"""
TOLD = CONFIG + "custom_hooks.append(dict(type='Tell', in_evaluation=2))\n"


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    (folder / 'plain.py').write_text(CONFIG)
    (folder / 'told.py').write_text(TOLD)
    return folder


@pytest.fixture(scope='module')
def train(configs, shapes, tool):
    from helpers.small_training import Tell
    from mmdet.registry import HOOKS

    HOOKS.register_module(module=Tell, force=True)

    def run(name, work, *arguments):
        words = (configs / name, '--work-dir', work, *arguments)
        return tool('train.py', *words, '--cfg-options', *data_options(shapes))

    return run


@pytest.fixture(scope='module')
def runs(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    runs = SimpleNamespace(whole=folder / 'whole', told=folder / 'told')
    assert train('plain.py', runs.whole).returncode == 0
    assert train('told.py', runs.told).returncode == 75
    runs.files = sorted(path.name for path in runs.told.glob('*.pth'))
    assert train('plain.py', runs.told, '--resume').returncode == 0
    return runs


def test_the_raw_and_the_averaged_weights_are_those_of_a_run_never_told(runs):
    assert runs.files == ['restart_2.pth']
    told, whole = (load(folder / 'epoch_2.pth') for folder in (runs.told, runs.whole))
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert same(told[part], whole[part]), part
    averaged, raw = (
        torch.cat([value.double().flatten() for value in content.values()])
        for content in (
            whole['state_dict'],
            {name: whole['ema_state_dict'][f'module.{name}'] for name in whole['state_dict']},
        )
    )
    assert not averaged.equal(raw)


def test_the_record_of_the_first_start_says_preempted(runs):
    ends = [
        json.loads(path.read_text())['ended']
        for path in sorted(runs.told.glob('*/largebatch.json'))
    ]
    assert [(one['how'], one['update']) for one in ends] == [('preempted', 2), ('done', 4)]
    assert 'Preempted (SIG' in ends[0]['message'] and 'restart_2.pth' in ends[0]['message']


def test_best_weights_alone_are_resumed_from_and_it_is_said(runs, train, tmp_path):
    content = load(runs.whole / 'epoch_2.pth')
    for key in ('optimizer', 'param_schedulers'):
        del content[key]
    torch.save(content, tmp_path / 'best_1.pth')
    more = (tmp_path / 'work', '--resume', tmp_path / 'best_1.pth')
    done = train('plain.py', *more)
    assert done.returncode == 0, done.stderr
    assert 'Resume: no optimizer in the checkpoint: its moments begin at 0.' in done.stdout


@pytest.mark.multiprocess
def test_another_model_is_refused_on_2_ranks(runs, command, configs, shapes, tmp_path):
    done = command(
        *('tools/dist_train.sh', configs / 'plain.py', 2, '--work-dir', tmp_path),
        *('--resume', runs.whole / 'epoch_2.pth', '--cfg-options', *data_options(shapes)),
        'model.roi_head.bbox_head.fc_out_channels=64',
        'custom_hooks=[]',
        PORT=str(free_port()),
    )
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert 'model: roi_head.bbox_head.fc_cls.weight and ' in line
    assert 'of shape (4, 64) in the config and (4, 128) in the checkpoint' in line
    assert not list(tmp_path.glob('*.pth'))
