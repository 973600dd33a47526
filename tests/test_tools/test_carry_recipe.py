"""tools/carry_recipe.py: the file that it writes, and that the file trains."""

import sys
from pathlib import Path

import mmdet
import pytest
import torch
from helpers.common import PYTHONPATH, ROOT
from helpers.runs import STOCK, Run, train, write_config
from mmengine.config import Config

MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
DINO = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
MMDET_TRAIN = Path(mmdet.__file__).parent / '.mim/tools/train.py'


@pytest.fixture
def carry(tool, tmp_path):
    """Run the tool in an empty folder."""

    def run(*words):
        return tool('carry_recipe.py', *words, cwd=tmp_path)

    return run


def refused(done, *parts):
    assert done.returncode == 2, done.stdout + done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    for part in parts:
        assert part in line


def test_each_line_has_its_rule_above_it(carry, tmp_path):
    done = carry(MASK_RCNN, '--global-batch', 128)
    assert done.returncode == 0, done.stderr
    path = tmp_path / 'mask-rcnn_r50_fpn_1x_coco_64xb2.py'
    lines = path.read_text().splitlines()
    assert f'_base_ = {MASK_RCNN!r}' in lines
    for setting, comment in (
        (
            'lr=0.16,',
            '# was 0.02: linear rule, 8 x the images: Goyal et al. 2017, arXiv 1706.02677',
        ),
        (
            'global_batch_size=128,',
            '# was 16, from auto_scale_lr.base_batch_size: images of an upd',
        ),
        ('milestones=[8, 11],', '# was [8, 11] in param_scheduler: epochs stay epochs'),
        ('interval=6,', '# was 50: iterations, the same number of images: detectron2'),
        ("type='PreemptionHook',", '# new: saves and exits on SIGTERM'),
    ):
        [index] = [i for i, line in enumerate(lines) if line.strip() == setting]
        assert lines[index - 1].strip().startswith(comment)
    # Each value has a comment above it; the calls around them and `_base_` have none.
    for index, line in enumerate(lines):
        plain = line.strip()
        if plain and not plain.startswith(('#', ')', '_base_ =')) and not plain.endswith('('):
            assert lines[index - 1].strip().startswith('#'), line
    out = done.stdout.splitlines()
    assert out[0] == 'base batch 16 from auto_scale_lr.base_batch_size; new batch 128'
    assert 'optim_wrapper.optimizer.lr: 0.02 -> 0.16 (linear rule' in done.stdout
    assert 'note: optim_wrapper.optimizer.weight_decay=0.0001: no rule' in done.stdout


@pytest.mark.parametrize(
    ('config', 'words', 'name'),
    [
        (DINO, (), 'dino-4scale_r50_64xb2-12e_coco.py'),
        (DINO, ('--optimizer', 'LAMB'), 'dino-4scale_r50_64xb2-lamb-12e_coco.py'),
        (MASK_RCNN, ('--optimizer', 'LARS'), 'mask-rcnn_r50_fpn_1x_coco_64xb2-lars.py'),
    ],
)
def test_the_name_has_the_new_batch(carry, tmp_path, config, words, name):
    assert carry(config, '--global-batch', 128, *words).returncode == 0
    assert [path.name for path in tmp_path.glob('*.py')] == [name]
    # Not over a file that a user may have edited.
    refused(carry(config, '--global-batch', 128, *words), f"--out='{name}'. Must be given")


def test_a_users_config_is_found_from_another_folder(carry, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/base_2xb2.py').write_text(
        f'_base_ = {MASK_RCNN!r}\nauto_scale_lr = None\nmodel = dict(backbone=dict(depth=101))\n'
    )
    words = ('mine/base_2xb2.py', '--global-batch', 32, '--out', 'recipes/new/carried.py')
    done = carry(*words)
    assert done.returncode == 0, done.stderr
    path = tmp_path / 'recipes/new/carried.py'
    assert "_base_ = '../../mine/base_2xb2.py'" in path.read_text()
    cfg = Config.fromfile(path)
    assert (cfg.model.backbone.depth, cfg.optim_wrapper.optimizer.lr) == (101, 0.16)
    # Written again where it is said.
    assert carry(*words).returncode == 0
    # Carried again: the file says its batch.
    done = carry('recipes/new/carried.py', '--global-batch', 64, '--out', 'again.py')
    assert done.stdout.startswith('base batch 32 from train_cfg.global_batch_size;')


@pytest.mark.parametrize(
    ('lines', 'words', 'parts'),
    [
        ('auto_scale_lr = None', (), ('base_batch=None. Must be given by --base-batch',)),
        (
            "optim_wrapper = dict(_delete_=True, constructor='Two',\n"
            "    backbone=dict(optimizer=dict(type='SGD')), head=dict(optimizer=dict(type='SGD')))",
            (),
            ("optim_wrapper=['backbone', 'head']. Must be a single optimizer",),
        ),
        (
            "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=90000)",
            (),
            ("train_cfg.type='IterBasedTrainLoop'. Must be",),
        ),
        ('', ('--global-batch', 127), ('global_batch=127. Must be a multiple of', 'such as 126')),
        ('', ('--out', 'mine.py'), ("--out='mine.py'. Must be another file than CONFIG",)),
        ('', ('--out', 'mine.txt'), ("--out='mine.txt'. Must be a .py file",)),
    ],
)
def test_one_line(carry, tmp_path, lines, words, parts):
    (tmp_path / 'mine.py').write_text(f'_base_ = {MASK_RCNN!r}\n{lines}\n')
    refused(carry('mine.py', '--global-batch', 128, *words), *parts)


def test_a_pure_python_config_is_for_the_function(carry):
    config = ROOT / 'tests/helpers/pure_python/lamb.py'
    refused(carry(config, '--global-batch', 32), 'mmdet_largebatch.carry_recipe(cfg, global_batch)')


@pytest.fixture
def carried(carry, tmp_path, shapes, monkeypatch):
    """A small Faster R-CNN in updates of 4, carried to another batch."""
    monkeypatch.setenv('SHAPES', str(shapes))

    def run(batch, *words, **changes):
        config = write_config(tmp_path, changes)
        words = ('--base-batch', 4, '--out', tmp_path / 'carried.py', *words)
        done = carry(config, '--global-batch', batch, *words)
        assert done.returncode == 0, done.stderr
        return config, tmp_path / 'carried.py'

    return run


@pytest.mark.slow
def test_at_its_own_batch_it_trains_as_the_config_itself(carried, tmp_path):
    """The weights are the same to the bit after 3 epochs, and an EMA of them."""
    ema = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01)
    config, recipe = carried(4, custom_hooks=[ema])
    # MMEngine's loop, with the random draws of the global batch.
    of = dict(type='AspectRatioBatchSampler')
    keyed = dict(batch_sampler=dict(_delete_=True, type='KeyedBatchSampler', of=of))
    config = write_config(tmp_path, STOCK, dict(train_dataloader=keyed), base=config)
    stock = train(tmp_path / 'stock', config=config)
    assert stock.status == 0, stock.output[-3000:]
    ours = train(tmp_path / 'ours', config=recipe)
    assert ours.status == 0, ours.output[-3000:]
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in stock.last[part].items():
            assert torch.equal(value, ours.last[part][name]), name


@pytest.mark.slow
def test_at_another_batch_it_trains_with_both_tools(carried, command, tmp_path, shapes):
    """One epoch of 2 updates of 8 images, by this project's train.py and by MMDetection's."""
    _, recipe = carried(8, '--optimizer', 'LAMB')
    cut = ['train_cfg.max_updates=2', 'train_dataloader.batch_size=4']
    ours = train(tmp_path / 'ours', config=recipe, arguments=['--cfg-options', *cut])
    assert ours.status == 0, ours.output[-3000:]
    words = (MMDET_TRAIN, recipe, '--work-dir', tmp_path / 'mmdet', '--cfg-options', *cut)
    variables = dict(PYTHONPATH=PYTHONPATH, SHAPES=str(shapes), OMP_NUM_THREADS='1')
    done = command(sys.executable, *words, **variables)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = Run(tmp_path / 'mmdet')
    assert ours.last['meta']['iter'] == theirs.last['meta']['iter'] == 2
    for name, value in ours.last['state_dict'].items():
        assert torch.equal(value, theirs.last['state_dict'][name]), name
    kept = Config.fromfile(next(theirs.folder.glob('*.py')))
    assert kept.optim_wrapper.optimizer.type == 'LAMB'
    # 3 iterations of 4 images are not 1.5 updates: the floor.
    assert kept.default_hooks.lr.warmup_iters == 3
