"""A real sweep: trained, stopped by Ctrl-C, resumed, tabulated and drawn."""

import csv
import os
import re

import pytest
from helpers.common import PYTHONPATH, ROOT, data_options, unpadded
from helpers.quadratic import config as quadratic
from helpers.tools import stopped_by_ctrl_c
from mmengine.config import Config

from mmdet_largebatch import SettingError
from mmdet_largebatch.results import read_run
from mmdet_largebatch.results.run_rows import read_rows
from mmdet_largebatch.tuning import combinations, trial_config, write_config

pytestmark = pytest.mark.slow

RECIPE = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
TWO_RANKS = ROOT / 'configs/shapes/mask-rcnn_r18_fpn_2xb8-sgd-1x_shapes.py'
# 20 images of 64 x 64 in 5 updates of 4 per epoch.
SMALL = [
    'train_dataloader.dataset.pipeline.2.scale=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(64,64)',
    'train_dataloader.batch_size=2',
    'train_cfg.global_batch_size=4',
    'train_cfg.max_epochs=2',
    'default_hooks.lr.milestones=[]',
    'default_hooks.logger.interval=1',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')),
]


def words(shapes, folder, *arguments, config=RECIPE, options=()):
    start = ('sweep.py', config, '--work-dir', folder, *arguments)
    return [str(x) for x in (*start, '--cfg-options', *data_options(shapes), *SMALL, *options)]


def rows_of(folder):
    with open(folder / 'results/results.csv', newline='') as file:
        return {row['run']: row for row in csv.DictReader(file)}


def starts(folder):
    """Return the number of starts of each trial."""
    return {path.name: len(list(path.glob('2*_*'))) for path in folder.glob('lr*') if path.is_dir()}


@pytest.fixture(scope='module')
def swept(tmp_path_factory, shapes, tool):
    """Two LRs with two warmups, 3 updates each, two runs at a time. LR 1e8 diverges."""
    folder = tmp_path_factory.mktemp('sweep')
    arguments = ('--lr', '0.001', '1e8', '--warmup-iters', 0, 2, '--updates', 3, '--jobs', 2)
    sgd = ['optim_wrapper.optimizer.type=SGD', 'optim_wrapper.clip_grad=None']
    return tool(*words(shapes, folder, *arguments, options=sgd), process=True), folder


def test_every_combination_is_trained_and_a_diverged_one_is_a_result(swept):
    done, folder = swept
    assert done.returncode == 0, done.stderr[-3000:]
    rows = rows_of(folder)
    assert {(float(row['lr']), int(row['warmup_updates'])) for row in rows.values()} == {
        (0.001, 0),
        (0.001, 2),
        (1e8, 0),
        (1e8, 2),
    }
    for name, row in rows.items():
        run = read_run(folder / name)
        if row['lr'] == '0.001':
            assert row['status'] == 'done, cut at update 3'
            assert [one.update for one in run.updates] == [1, 2, 3]
            # 3 of the 5 updates of epoch 1, then evaluated.
            assert (row['epochs_done'], [one.epoch for one in run.evaluations]) == ('0.6', [1])
        else:
            assert re.fullmatch(r'diverged at update [123]', row['status'])
    assert sorted(path.name for path in (folder / 'results').glob('*.png')) == [
        'curves.png',
        'heatmap.png',
    ]
    row = '| lr0.001_warmup2 | SGD | 4 | 1 | 0.001 | 2 | 0.6 of 2 |'
    assert row in unpadded(done.stdout)
    assert '4/4' in done.stderr


def test_what_is_finished_is_left_alone_and_the_grid_can_grow(swept, shapes, tool):
    _, folder = swept
    before = starts(folder)
    arguments = ('--lr', '0.001', '0.002', '--warmup-iters', 2, '--updates', 3)
    sgd = ['optim_wrapper.optimizer.type=SGD', 'optim_wrapper.clip_grad=None']
    done = tool(*words(shapes, folder, *arguments, options=sgd))
    assert done.returncode == 0, done.stderr[-3000:]
    assert starts(folder) == before | {'lr0.002_warmup2': 1}
    assert list(rows_of(folder)) == ['lr0.001_warmup2', 'lr0.002_warmup2']
    # The bar begins with the finished one, which has no part in the estimated time.
    assert '| 1/2 [' in done.stderr and '-00:00' not in done.stderr


def test_another_recipe_in_the_same_folder_is_refused(swept, shapes, tool):
    _, folder = swept
    arguments = ('--lr', '0.001', '--warmup-iters', 2, '--updates', 3)
    done = tool(*words(shapes, folder, *arguments))
    assert done.returncode == 2
    assert (
        'holds trainings with other settings: optim_wrapper.optimizer.type is LAMB' in done.stderr
    )
    assert done.stderr.count('error: ') == 1 and 'Traceback' not in done.stderr


def test_ctrl_c_saves_and_the_same_command_goes_on(shapes, tool, tmp_path):
    """A sweep on 2 ranks, stopped and resumed, ends with the losses of one never stopped."""
    arguments = ('--lr', '0.001', '--warmup-iters', 2, '--gpus', 2)
    line = words(shapes, tmp_path / 'a', *arguments)
    output = tmp_path / 'a/lr0.001_warmup2/output.txt'
    status, errors = stopped_by_ctrl_c(*line, outputs=[output])
    assert status == 130
    assert 'Stopped (SIGINT): 0 of 1 runs are finished. The same command goes on.' in errors
    assert 'Preempted (SIGTERM on rank' in output.read_text()

    done = tool(*line)
    assert done.returncode == 0, done.stderr[-3000:]
    assert starts(tmp_path / 'a') == {'lr0.001_warmup2': 2}
    # The recipe adds gradients exactly: the same losses on 1 rank.
    whole = tool(*words(shapes, tmp_path / 'b', *arguments[:-2]))
    assert whole.returncode == 0, whole.stderr[-3000:]
    one, other = rows_of(tmp_path / 'a'), rows_of(tmp_path / 'b')
    for name, row in other.items():
        assert (one[name]['ranks'], row['status'], one[name]['status']) == ('2', 'done', 'done')
        losses = [[x.loss for x in read_run(tmp_path / k / name).updates] for k in 'ab']
        assert losses[0] == losses[1] and len(losses[0]) == 10


def test_a_setting_that_the_training_refuses_ends_the_sweep_in_its_words(shapes, tool, tmp_path):
    done = tool(*words(shapes, tmp_path, '--lr', '0.1', '--warmup-iters', 99))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        'error: Invalid WarmupStepLRHook.warmup_iters=99. Must be no longer than the training of '
        '2 epochs (10 updates).'
    )


def test_two_sweeps_do_not_share_a_folder(shapes, tool, tmp_path):
    import fcntl

    with open(tmp_path / 'trainings.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = tool(*words(shapes, tmp_path, '--lr', '0.1'))
    assert done.returncode == 2
    assert f'--work-dir {tmp_path}: trainings are still running there' in done.stderr


def test_a_training_that_fails_by_itself_is_named(shapes, tool, tmp_path):
    """The first forward pass fails. The sweep continues and names the log."""
    broken = ['model.rpn_head.in_channels=63', 'default_hooks.lr.warmup_iters=1']
    done = tool(*words(shapes, tmp_path, '--lr', '0.1', '0.2', options=broken))
    assert done.returncode == 1
    assert f'lr0.1: failed with status 1, see {tmp_path / "lr0.1/output.txt"}' in done.stderr
    assert '2 of 2 runs failed.' in done.stderr


@pytest.fixture(scope='module')
def unusual(tmp_path_factory, shapes, tool):
    """A recipe that stops early, logs only elsewhere, and less often than once a run; twice."""
    folder = tmp_path_factory.mktemp('unusual')
    config = folder / 'config.py'
    config.write_text(
        f"_base_ = '{RECIPE}'\n"
        "custom_hooks = [dict(type='StopAtTwo')]\n"
        "custom_imports = dict(imports=['mmdet_largebatch', 'stops'])\n"
        "visualizer = dict(vis_backends=[dict(type='Elsewhere')])\n"
    )
    (folder / 'stops.py').write_text(
        'import os\n\n'
        'from mmdet.registry import HOOKS, VISBACKENDS\n'
        'from mmengine.hooks import Hook\n'
        'from mmengine.visualization import BaseVisBackend\n\n\n'
        '@VISBACKENDS.register_module()\n'
        'class Elsewhere(BaseVisBackend):\n'
        '    experiment = None\n\n'
        '    def _init_env(self):\n'
        '        pass\n\n'
        '    def add_scalars(self, scalar_dict, *args, **kwargs):\n'
        '        os.makedirs(self._save_dir, exist_ok=True)\n'
        '        with open(f"{self._save_dir}/elsewhere", "a") as file:\n'
        '            file.write(f"{scalar_dict}\\n")\n\n\n'
        '@HOOKS.register_module()\n'
        'class StopAtTwo(Hook):\n'
        '    def after_train_epoch(self, runner):\n'
        '        runner.train_loop.stop_training = runner.epoch == 1\n'
    )
    options = ['train_cfg.max_epochs=4', 'default_hooks.lr.warmup_iters=2']
    options += ['default_hooks.logger.interval=50']
    options += ['default_hooks.logger.ignore_last=True', 'train_cfg.val_interval=1']
    line = words(shapes, folder / 'work', '--lr', '0.001', config=config, options=options)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv('PYTHONPATH', str(folder), prepend=os.pathsep)
        return folder / 'work', [tool(*line) for _ in range(2)]


def test_a_recipe_that_stops_early_and_logs_elsewhere_is_trained_once(unusual):
    folder, dones = unusual
    for done in dones:
        assert done.returncode == 0, done.stderr[-3000:]
        assert 'failed' not in done.stderr
    assert starts(folder) == {'lr0.001': 1}
    [row] = rows_of(folder).values()
    assert (row['status'].split(', the last')[0], row['epochs_done']) == (
        'done, stopped early at epoch 2',
        '2',
    )
    # The recipe's log and the log that the sweep adds.
    assert list(folder.glob('lr0.001/2*/**/elsewhere'))
    assert list(folder.glob('lr0.001/2*/vis_data/scalars.json'))


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('default_hooks.logger=None', 'Invalid default_hooks.logger=None. Must be a'),
        ('default_hooks.logger.keep_local=False', 'Invalid default_hooks.logger.keep_local=False.'),
        ('default_hooks.logger.log_metric_by_epoch=False', 'logger.log_metric_by_epoch=False. Mu'),
        ('log_processor.by_epoch=False', 'Invalid log_processor.by_epoch=False. Must be True'),
        ('train_cfg.max_epochs=None', 'has no max_epochs. Must be a training in epochs.'),
    ],
)
def test_a_recipe_that_leaves_no_results_is_refused_before_it_is_trained(
    shapes, tmp_path, tool, option, message
):
    done = tool(*words(shapes, tmp_path / 'work', '--lr', '0.1', options=[option]))
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith('error: ') and message in error
    assert not list((tmp_path / 'work').glob('*.py'))


def halved(tool, folder, metric=None):
    """A sweep by halving whose quarter-runs are one epoch of the quadratic."""
    text = quadratic() + 'train_cfg.update(val_begin=3)\n'
    text += "optim_wrapper['paramwise_cfg'] = dict(custom_keys=dict(w=dict(lr=0.001)))\n"
    if metric:
        text += (
            f"val_evaluator = dict(type='MeanLoss', name={metric!r})\n"
            "val_dataloader = dict(train_dataloader, dataset=dict(type='Draws', count=8))\n"
            'val_cfg = dict()\n'
        )
    (folder / 'quadratic.py').write_text(text)
    values = ('--lr', 0.01, 0.02, '--warmup-iters', 0, '--halving')
    return tool('sweep.py', folder / 'quadratic.py', *values, '--work-dir', folder / 'work')


def test_halving_ends_at_the_first_run_without_a_box_ap(tool, tmp_path, monkeypatch):
    """The quarter-run of one epoch is evaluated, though the recipe's evaluations begin at 3."""
    monkeypatch.setenv('PYTHONPATH', PYTHONPATH)
    for _ in range(2):
        done = halved(tool, tmp_path, metric='pascal_voc/mAP')
        assert done.returncode == 2 and 'Traceback' not in done.stderr
        kept = "note: optim_wrapper.paramwise_cfg.custom_keys={'w': {'lr': 0.001}} stays, whatever"
        assert kept in done.stderr
        assert done.stderr.splitlines()[-1] == (
            'error: --halving compares box APs. The training with LR 0.01, warmup 0, seed 0 and 1 '
            'epochs has none. Must be measured by val_evaluator, such as CocoMetric with '
            "metric='bbox'."
        )
        assert [path.name for path in (tmp_path / 'work/quarter').glob('*/')] == [
            'lr0.01_warmup0_seed0'
        ]
        [row] = read_rows(tmp_path / 'work/runs.csv').values()
        assert (row.status, row.box_ap, row.ap_by_epoch) == ('done', None, ((1, None, None),))


def test_halving_without_an_evaluation_is_refused_before_it_is_trained(tool, tmp_path):
    done = halved(tool, tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        'error: Invalid val_dataloader=None. Must be set with --halving, which compares the APs of '
        'the last epoch.'
    )
    assert not (tmp_path / 'work/quarter').exists()


def test_combinations(tmp_path):
    trials = combinations(tmp_path, [0.1, 0.2, 0.1], [0, 5], [1, 2])
    assert [(x.lr, x.warmup_iters, x.seed) for x in trials] == [
        (lr, warmup, seed) for lr in (0.1, 0.2) for warmup in (0, 5) for seed in (1, 2)
    ]
    assert trials[0].folder == tmp_path / 'lr0.1_warmup0_seed1'
    [alone] = combinations(tmp_path, [], [], [])
    assert (alone.folder.name, alone.lr, alone.warmup_iters, alone.seed) == ('recipe', *[None] * 3)


def test_samples_are_distinct_pairs_with_all_seeds_and_repeat(tmp_path):
    lrs, warmups = [0.1, 0.2, 0.3, 0.4], [0, 1, 2]
    drawn = combinations(tmp_path, lrs, warmups, [0, 1], samples=5, sample_seed=3)
    pairs = [(x.lr, x.warmup_iters) for x in drawn]
    assert len(pairs) == 10 and len(set(pairs)) == 5
    assert drawn == combinations(tmp_path, lrs, warmups, [0, 1], samples=5, sample_seed=3)
    assert any(
        drawn != combinations(tmp_path, lrs, warmups, [0, 1], samples=5, sample_seed=other)
        for other in range(4, 10)
    )
    with pytest.raises(SettingError, match='Invalid --samples=13. Must be <= 12, the number of'):
        combinations(tmp_path, lrs, warmups, [], samples=13)


@pytest.mark.parametrize(
    ('changed', 'values', 'updates', 'message'),
    [
        ('optim_wrapper.optimizer', ([0.1], [], []), None, '--lr sets optim_wrapper.optimizer.lr'),
        ('default_hooks', ([], [5], []), None, '--warmup-iters sets default_hooks.lr.warmup_iters'),
        ('train_cfg', ([], [], []), 5, '--updates 5 needs .*GlobalBatchTrainLoop; it is None'),
    ],
)
def test_a_recipe_without_a_place_for_a_value_is_refused(
    tmp_path, changed, values, updates, message
):
    cfg = Config.fromfile(TWO_RANKS)
    cfg.merge_from_dict({changed: dict(_delete_=True)})
    [trial] = combinations(tmp_path, *values)
    with pytest.raises(SettingError, match=message):
        trial_config(cfg, trial, updates)


def test_lrs_that_the_schedule_would_ignore_are_refused(tmp_path):
    cfg = Config.fromfile(TWO_RANKS)
    cfg.param_scheduler = dict(type='OneCycleLR', eta_max=0.02, total_steps=12)
    message = r'Invalid param_scheduler\.eta_max=0\.02\. Must be left out with --lr, as in'
    with pytest.raises(SettingError, match=message):
        trial_config(cfg, *combinations(tmp_path, [0.5], [], []))
    assert trial_config(cfg, *combinations(tmp_path, [], [], [1])).randomness.seed == 1


def test_a_config_that_nothing_was_trained_with_gives_way(tmp_path):
    cfg = Config.fromfile(TWO_RANKS)
    [trial] = combinations(tmp_path, [0.5], [], [])
    write_config(trial, trial_config(cfg, trial, 9))
    write_config(trial, trial_config(cfg, trial, 8))
    assert Config.fromfile(trial.config).train_cfg.max_updates == 8
    trial.folder.mkdir()
    message = r'other settings: train_cfg\.max_updates is 9 now and was 8\.'
    with pytest.raises(SettingError, match=message):
        write_config(trial, trial_config(cfg, trial, 9))


def test_the_config_of_a_trial_differs_in_its_values_alone(tmp_path):
    cfg = Config.fromfile(TWO_RANKS)
    [trial] = combinations(tmp_path, [0.5], [7], [3])
    cfg.default_hooks.checkpoint.out_dir = 's3://bucket/'
    write_config(trial, trial_config(cfg, trial, 9))
    written = Config.fromfile(trial.config)
    expected = cfg.to_dict()
    expected['work_dir'] = str(trial.folder)
    expected['optim_wrapper']['optimizer']['lr'] = 0.5
    expected['default_hooks']['lr'] |= dict(warmup_iters=7, warmup_epochs=None)
    expected['randomness']['seed'] = 3
    # Trials of one name in two folders, such as `quarter` and `full`, share no checkpoint.
    expected['default_hooks']['checkpoint']['out_dir'] = f's3://bucket{tmp_path}'
    expected['train_cfg']['max_updates'] = 9
    assert written.to_dict() == expected
