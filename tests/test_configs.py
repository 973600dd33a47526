"""Every recipe: what it resolves to, and that it trains."""

from pathlib import Path

import pytest
import torch
from helpers.common import ROOT, without_scope
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmdet_largebatch.global_batch import GlobalBatchTrainLoop
from mmdet_largebatch.optimizers import LAMB, LARS
from mmdet_largebatch.schedulers import WarmupStepLR

CONFIGS = ROOT / 'configs'
COCO, SHAPES = 'mask_rcnn/mask-rcnn_r50_fpn_{}_coco.py', 'shapes/mask-rcnn_r18_fpn_{}_shapes.py'

# Global batch, optimizer, LR, weight decay, epochs and milestones, from the project's statement of
# the recipes. The LRs of SGD are mmdet's and MLPerf's; None: derived or tuned, no source.
RECIPES = {
    COCO.format('8xb2-sgd-1x'): (16, 'SGD', 0.02, 1e-4, 12, [8, 11]),
    COCO.format('8xb2-lamb-1x'): (16, 'LAMB', None, 1e-4, 12, [8, 11]),
    COCO.format('64xb2-sgd-1x'): (128, 'SGD', 0.16, 1e-4, 12, [8, 11]),
    COCO.format('64xb2-lars-1x'): (128, 'LARS', None, 5e-4, 12, [8, 11]),
    COCO.format('64xb2-lamb-1x'): (128, 'LAMB', None, 1e-4, 12, [8, 11]),
    COCO.format('64xb2-sgd-2x'): (128, 'SGD', 0.16, 1e-4, 24, [16, 22]),
    COCO.format('64xb2-lamb-syncbn-1x'): (128, 'LAMB', None, 1e-4, 12, [8, 11]),
    SHAPES.format('2xb8-sgd-1x'): (16, 'SGD', None, 1e-4, 12, [8, 11]),
    SHAPES.format('2xb8-lars-1x'): (16, 'LARS', None, 5e-4, 12, [8, 11]),
    SHAPES.format('2xb8-lamb-1x'): (16, 'LAMB', None, 1e-4, 12, [8, 11]),
    **{
        f'{folder}/mask-rcnn_r18_fpn_{ranks}xb16-{name.lower()}-1x_{data}.py': (
            16 * ranks,
            name,
            None,
            5e-4 if name == 'LARS' else 1e-4,
            12,
            [8, 11],
        )
        for folder, data in (('miniature', 'miniature'), ('shapes_small', 'shapes'))
        for ranks in (1, 8)
        for name in ('SGD', 'LARS', 'LAMB')
    },
}


class StopAfterTwoUpdates(Hook):
    """Ends the training after two updates and keeps the LR that each of them had."""

    def __init__(self):
        self.lrs = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.lrs.append(runner.optim_wrapper.param_groups[0]['lr'])

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = True


def test_the_table_has_every_recipe():
    files = {str(path.relative_to(CONFIGS)) for path in CONFIGS.glob('[!_]*/*.py')}
    assert files == set(RECIPES)


@pytest.mark.parametrize('name', RECIPES)
def test_settings(name):
    batch, optimizer, lr, decay, epochs, milestones = RECIPES[name]
    cfg = Config.fromfile(CONFIGS / name)
    assert cfg.train_cfg.type == 'GlobalBatchTrainLoop'
    assert (cfg.train_cfg.global_batch_size, cfg.train_cfg.max_epochs) == (batch, epochs)
    ranks, micro = map(int, name.split('fpn_')[1].split('-')[0].split('xb'))
    assert (micro, ranks * micro) == (cfg.train_dataloader.batch_size, batch)
    assert cfg.optim_wrapper.optimizer.type == optimizer
    assert cfg.optim_wrapper.optimizer.weight_decay == decay
    if lr is not None:
        assert cfg.optim_wrapper.optimizer.lr == lr
    else:
        assert (
            name.startswith(('shapes', 'miniature'))
            or 'NOT validated on COCO' in (CONFIGS / name).read_text()
            or 'syncbn' in name
        )
    hook = cfg.default_hooks.lr
    assert (hook.type, hook.milestones, hook.gamma) == ('WarmupStepLRHook', milestones, 0.1)
    assert cfg.param_scheduler is None


@pytest.mark.parametrize('name', [name for name in RECIPES if name.startswith('mask_rcnn')])
def test_model_and_evaluation_are_those_of_mmdet(name):
    """Apart from SyncBN a recipe trains and evaluates exactly what mmdet's own 1x config does."""
    ours = Config.fromfile(CONFIGS / name)
    theirs = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    if 'syncbn' in name:
        assert ours.model.backbone.pop('norm_cfg') == dict(type='SyncBN', requires_grad=True)
        assert ours.model.backbone.pop('norm_eval') is False
        theirs.model.backbone.pop('norm_cfg')
        theirs.model.backbone.pop('norm_eval')
    for key in ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator', 'test_evaluator'):
        assert without_scope(ours[key]) == without_scope(theirs[key]), key


def small(cfg: Config, root: Path, work_dir: Path) -> Config:
    """The recipe on one process, a few small pictures and no downloaded weights."""
    cfg.work_dir = str(work_dir)
    cfg.model.backbone.init_cfg = None
    cfg.train_cfg.global_batch_size = 2
    cfg.train_dataloader.batch_size = 1
    cfg.train_dataloader.num_workers = 0
    cfg.train_dataloader.persistent_workers = False
    cfg.train_dataloader.dataset.indices = 4
    cfg.train_dataloader.dataset.data_root = f'{root}/'
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = (96, 96)
    # Few RoIs a picture, or the tests would spend their time in RoIAlign.
    cfg.model.train_cfg.rcnn.sampler.num = 32
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=100, max_per_img=50)
    # 4 pictures are 2 updates an epoch: the recipe's warmup would not fit into the training.
    cfg.default_hooks.lr.warmup_iters = 2
    cfg.default_hooks.lr.warmup_ratio = 0.5
    cfg.custom_hooks = []
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.interval = -1
    cfg.randomness = dict(seed=0)
    return cfg


def differs_in_values_alone(name):
    """Small as below, such a recipe is another one but for its LR: the short form has that one."""
    return name.startswith('miniature') or any(
        kind in name for kind in ('fpn_1xb16', 'fpn_8xb2-', 'sgd-2x')
    )


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[pytest.mark.whole] if differs_in_values_alone(name) else [])
        for name in RECIPES
    ],
)
@pytest.mark.slow
def test_two_updates(name, request, tmp_path):
    on_coco = name.startswith('mask_rcnn')
    root = request.getfixturevalue('shapes_as_coco' if on_coco else 'shapes')
    cfg = small(Config.fromfile(CONFIGS / name), root, tmp_path)
    cfg.experiment_name = f'{Path(name).stem}_{tmp_path.name}'
    runner = Runner.from_cfg(cfg)
    before = {}
    runner.register_hook(KeepStart(before))
    stop = StopAfterTwoUpdates()
    runner.register_hook(stop)
    runner.train()

    assert isinstance(runner.train_loop, GlobalBatchTrainLoop)
    assert runner.iter == 2
    optimizer = runner.optim_wrapper.optimizer
    assert type(optimizer).__name__ == RECIPES[name][1]
    assert [type(scheduler) for scheduler in runner.param_schedulers] == [WarmupStepLR]
    # warmup_ratio 0.5 over 2 updates: half the LR, then all of it.
    lr = cfg.optim_wrapper.optimizer.lr
    assert stop.lrs == pytest.approx([lr / 2, lr], rel=1e-12)

    model = runner.model
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(p.isfinite().all() for p in trained.values())
    moved = [n for n, p in trained.items() if not p.equal(before[n])]
    # A mask head's branch of a category that no picture shows gets a zero gradient, no more.
    assert len(moved) > 0.9 * len(trained)
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert all(dict(model.named_parameters())[n].equal(before[n]) for n in frozen)
    check_decay_and_adaptation(optimizer, trained)


class KeepStart(Hook):
    """Keeps the weights that the training starts from."""

    def __init__(self, weights):
        self.weights = weights

    def before_train(self, runner):
        for name, parameter in runner.model.named_parameters():
            self.weights[name] = parameter.detach().clone()


def check_decay_and_adaptation(optimizer, trained):
    """Biases and norm parameters, which are all those of one dimension, carry no weight decay."""
    assert len(optimizer.param_groups) == (2 if isinstance(optimizer, (LAMB, LARS)) else 1)
    groups = [(g, p) for g in optimizer.param_groups for p in g['params']]
    # Frozen tensors stand in the groups too, as in MMEngine's own, for hooks that unfreeze them.
    assert {id(p) for _, p in groups if p.requires_grad} == {id(p) for p in trained.values()}
    decay = optimizer.defaults['weight_decay']
    for group, parameter in groups:
        plain = parameter.ndim <= 1 and isinstance(optimizer, (LAMB, LARS))
        assert group['weight_decay'] == (0 if plain else decay)
        if isinstance(optimizer, LARS):
            assert bool(group.get('lars_exclude', False)) == plain


def test_the_lines_of_the_readme_put_lamb_into_a_config_of_mmdet(tmp_path):
    """The two python blocks of that section, under a `_base_` as a user has it."""
    section = (ROOT / 'README.md').read_text().split('## Into your own config')[1]
    blocks = [block.split('```')[0] for block in section.split('```python\n')[1:3]]
    path = tmp_path / 'mine.py'
    path.write_text(
        "_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'\n" + ''.join(blocks)
    )
    cfg = Config.fromfile(path)
    with DefaultScope.overwrite_default_scope('mmdet'):
        wrapper = build_optim_wrapper(torch.nn.Linear(2, 2), cfg.optim_wrapper)
    assert type(wrapper.optimizer) is LAMB
    # At batch 16, as mmdet's config has it.
    recipe = ROOT / 'configs/mask_rcnn/mask-rcnn_r50_fpn_8xb2-lamb-1x_coco.py'
    assert wrapper.optimizer.defaults['lr'] == Config.fromfile(recipe).optim_wrapper.optimizer.lr
