"""The plan of a training, compared with published figures, MMEngine and a real optimizer."""

import json

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers.common import ROOT
from helpers.plans import COCO, LAMB, SHAPES, TRAIN2017, config, plan
from mmdet.registry import DATASETS, MODELS
from mmengine.hub import get_config
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope

from mmdet_largebatch import SettingError
from mmdet_largebatch.planning import as_text, draw_lr, make_plan

# Most of them build the model of a recipe on COCO.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def lamb():
    return plan(LAMB)


@pytest.mark.parametrize(
    ('ranks', 'share'), [(64, (1, 1)), (8, (8, 8)), (48, (1, 2)), (1, (64, 64))]
)
def test_batch_128_is_the_same_training_on_any_number_of_ranks(ranks, share):
    """917 updates an epoch and 44.17 M parameters in 168 tensors are in README and docs. 8 and 11
    epochs of 917 are 7,336 and 10,087 updates."""
    made = plan(LAMB, ranks)
    assert (made.ranks, made.micro_batches, made.micro_batches_per_rank) == (ranks, 64, share)
    assert (made.global_batch, made.updates_per_epoch, made.updates) == (128, 917, 11_004)
    assert [decay.update for decay in made.decays] == [7_336, 10_087]
    assert [decay.epoch for decay in made.decays] == [8, 11]
    assert [decay.lr for decay in made.decays] == pytest.approx([1.25e-4, 1.25e-5], rel=1e-12)
    assert (made.warmup_updates, round(made.warmup_epochs, 3)) == (625, 0.682)  # 625 / 917
    assert (made.tensors, round(made.parameters / 1e6, 2)) == (168, 44.17)
    # fp32; one rank sends nothing.
    assert made.gradient_bytes == (4 * made.parameters if ranks > 1 else 0)


@pytest.mark.parametrize(
    'path', sorted((ROOT / 'configs').glob('[!_]*/*.py')), ids=lambda p: p.stem
)
def test_every_recipe_is_planned_on_the_ranks_of_its_name(path):
    images = dict(shapes=512, miniature=1024, shapes_small=8192, mask_rcnn=TRAIN2017)[
        path.parent.name
    ]
    made = plan(path.relative_to(ROOT), images=images)
    ranks, micro = map(int, path.stem.split('fpn_')[1].split('-')[0].split('xb'))
    assert (made.ranks, made.micro_batch) == (ranks, micro)
    assert ('SyncBN' in ''.join(made.warnings)) == ('syncbn' in path.stem)
    # Small models on small pictures; the published LRs are COCO's. An epoch of the miniature is 8
    # updates of 128.
    miniature = path.parent.name == 'miniature'
    small = miniature or path.parent.name == 'shapes_small'
    long = [x for x in made.warnings if x.startswith('The warmup of')]
    far = [x for x in made.warnings if x.startswith('The LR of')]
    assert len(long) == (miniature and made.warmup_epochs > 1)
    assert len(far) == (small and '_8xb16-sgd-' in path.stem)
    assert len(made.warnings) == ('syncbn' in path.stem) + len(long) + len(far)


@pytest.mark.parametrize('optimizer', ['sgd', 'lars', 'lamb'])
def test_groups_and_state_are_those_of_an_optimizer_that_has_stepped(optimizer):
    cfg = config(SHAPES.format(optimizer))
    made = make_plan(cfg, None, 512)
    model = MODELS.build(cfg.model)
    built = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    built.step()
    state = [x for state in built.state.values() for x in state.values() if torch.is_tensor(x)]
    assert made.state_bytes == sum(x.nbytes for x in state) > 0
    # As int64 (exact_sum), where float32 has 4 bytes.
    assert made.exact_sum
    assert made.gradient_bytes == 2 * sum(p.grad.nbytes for p in model.parameters())
    assert made.groups == len(built.param_groups)
    settings = {}
    for group in built.param_groups:
        for p in group['params']:
            key = (group['weight_decay'], bool(group.get('lars_exclude')))
            settings[key] = settings.get(key, 0) + p.numel()
    assert settings == {
        (setting.options['weight_decay'], bool(setting.options.get('lars_exclude'))): (
            setting.parameters
        )
        for setting in made.group_settings
    }


def test_images_are_counted_by_the_filter_of_mmdet(shapes, tmp_path):
    """One picture without a shape and one that is 7 pixels wide are filtered out of 20."""
    content = json.loads((shapes / 'annotations/instances_train.json').read_text())
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] != 3]
    content['images'][5]['width'] = 7
    path = tmp_path / 'train.json'
    path.write_text(json.dumps(content))
    cfg = config(SHAPES.format('sgd'))
    cfg.train_dataloader.dataset.update(ann_file=str(path), data_root='')
    cfg.default_hooks.lr.warmup_iters = 2
    made = make_plan(cfg)
    assert made.images == len(DATASETS.build(cfg.train_dataloader.dataset)) == 18
    # 18 pictures are 9 for each of the 2 micro-batches of 8: 2 updates.
    assert made.updates_per_epoch == 2


SGD_128 = COCO.format('64xb2-sgd-1x')
CLIP = dict(optim_wrapper__clip_grad=dict(max_norm=35))


@pytest.mark.parametrize(
    ('name', 'options', 'warning'),
    [
        (SGD_128, dict(default_hooks__lr__warmup_iters=917), None),
        (
            SGD_128,
            dict(default_hooks__lr__warmup_iters=918),
            'warmup of 918 updates is longer than',
        ),
        (LAMB, CLIP, 'Every update clips twice'),
        (LAMB, CLIP | dict(optim_wrapper__optimizer__max_grad_norm=None), None),
        (SGD_128, CLIP, None),
        (SGD_128, dict(model__backbone__norm_eval=False), None),
        (
            SGD_128,
            dict(
                train_dataloader__dataset__pipeline=[
                    dict(type='CachedMosaic', img_scale=(64, 64)),
                    dict(type='PackDetInputs'),
                ]
            ),
            'CachedMosaic in train_dataloader.dataset remembers earlier pictures: take Mosaic in',
        ),
        # Published: 0.16 at 128, 0.24 at 256.
        (SGD_128, dict(optim_wrapper__optimizer__lr=0.32), None),
        (SGD_128, dict(optim_wrapper__optimizer__lr=0.33), '0.33 is 2.06 times the 0.16 of publi'),
        (SGD_128, dict(optim_wrapper__optimizer__lr=0.02), '0.02 is 0.125 times the 0.16 of publi'),
        (SGD_128, dict(train_cfg__global_batch_size=256), None),
        (
            SGD_128,
            dict(train_cfg__global_batch_size=256, optim_wrapper__optimizer__lr=0.5),
            '0.5 is 2.08 times the 0.24 of publi',
        ),
        (LAMB, dict(optim_wrapper__optimizer__lr=1.0), None),
    ],
)
def test_warnings(name, options, warning):
    # 300 updates of warmup are shorter than the 459 updates of an epoch at batch 256.
    options = dict(default_hooks__lr__warmup_iters=300) | options
    made = plan(name, **options)
    assert len(made.warnings) == (warning is not None), made.warnings
    assert (warning or '') in ''.join(made.warnings)


def test_what_is_published_is_said(lamb):
    assert lamb.lr_from == 'as configured'
    assert lamb.lr_published == 'no published LR for LAMB on Mask R-CNN is known'
    assert plan(SGD_128).lr_published == 'published for SGD on Mask R-CNN: 0.16 at batch 128'
    far = plan(SGD_128, train_cfg__global_batch_size=1024, default_hooks__lr__warmup_iters=0)
    assert far.lr_published == 'no published LR for SGD on Mask R-CNN is known beyond batch 512'
    # One-stage detectors have other LRs.
    retinanet = get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
    assert make_plan(retinanet, 8, TRAIN2017).lr_published == ''


@pytest.mark.parametrize(
    ('options', 'on_gpu', 'reason'),
    [
        ({}, 'apex', 'it fits every parameter group'),
        (dict(backend='apex'), 'apex', 'it fits every parameter group'),
        (dict(backend='torch'), 'torch', "backend='torch'"),
        (dict(trust_clip=(0, 10)), 'torch', 'Apex has no trust_clip, and group 0 sets it'),
    ],
)
def test_backend_on_a_gpu(options, on_gpu, reason):
    options = {f'optim_wrapper__optimizer__{key}': value for key, value in options.items()}
    backend = plan(LAMB, **options).backend
    assert (backend.on_gpu, backend.on_gpu_reason) == (on_gpu, reason)
    if not torch.cuda.is_available() and on_gpu == 'apex':
        refused = 'optim_wrapper__optimizer__backend' in options
        assert backend.here == (None if refused else 'torch')
        assert backend.here_reason == 'no GPU is visible'


@pytest.mark.parametrize(
    ('ranks', 'options', 'message'),
    [
        (128, {}, r'128 ranks are more than the 64 micro-batches of train_cfg\.global_batch_size'),
        (8, dict(train_cfg__global_batch_size=127), r'=127\. Must be a multiple .* 126 or 128\.'),
        (8, dict(train_cfg__global_batch_size='x'), r"='x'\. Must be an integer >= 1\."),
        (8, dict(optim_wrapper__accumulative_counts=2), r'accumulative_counts=2\. Must be 1'),
        (8, dict(default_hooks__lr__milestones=[8, 12]), 'milestones=.* Must be inside the train'),
        (
            8,
            dict(auto_scale_lr=dict(enable=True, base_batch_size=0)),
            r'base_batch_size=0\. Must be',
        ),
        (
            8,
            dict(optim_wrapper__optimizer=dict(backend='apex', trust_clip=(0, 1))),
            r"backend='apex'\. Must be 'auto' or 'torch': Apex has no trust_clip",
        ),
        (
            8,
            dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=9)),
            r"Invalid train_cfg\.type='IterBasedTrainLoop'\. Must be Global.* which have epochs\.",
        ),
        (8, dict(optim_wrapper=None), 'optim_wrapper is not set'),
        (8, dict(runner_type='FlexibleRunner'), "runner_type='FlexibleRunner'. Must be Runner or"),
        (
            8,
            dict(train_dataloader__sampler__type='ClassAwareSampler'),
            r'--images=117266\. Must be left out with .*ClassAware',
        ),
    ],
)
def test_refusals(ranks, options, message):
    with pytest.raises(SettingError, match=message):
        plan(LAMB, ranks, **options)


def test_a_plan_leaves_the_process_as_it_was(lamb):
    """No process group, no logger of errors alone, no change of the config."""
    assert not dist.is_initialized()
    with pytest.raises(SettingError):
        plan(LAMB, 128)
    assert not dist.is_initialized()
    before = [list(kind._instance_dict) for kind in (DefaultScope, MMLogger, MessageHub)]
    cfg = config(LAMB)
    make_plan(cfg, 8, TRAIN2017)
    assert cfg.to_dict() == config(LAMB).to_dict()
    after = [list(kind._instance_dict) for kind in (DefaultScope, MMLogger, MessageHub)]
    assert after == before


def test_json_alone_is_printed_and_nothing_else_is_left(lamb, tmp_path, tool):
    done = tool('plan.py', LAMB, '--images', TRAIN2017, '--json', process=True)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed['updates'], printed['state_bytes']) == (lamb.updates, lamb.state_bytes)
    assert [decay['update'] for decay in printed['decays']] == [7_336, 10_087]
    assert printed['ranks_from'] == 'train_cfg.global_batch_size / train_dataloader.batch_size'
    words = (ROOT / LAMB, '--images', TRAIN2017, '--plot', 'sub/lr.png')
    done = tool('plan.py', *words, cwd=tmp_path)
    assert (done.returncode, done.stdout.rstrip('\n')) == (0, as_text(lamb))
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*')] == [
        'sub',
        'sub/lr.png',
    ]
    picture = cv2.imread(str(tmp_path / 'sub/lr.png'))
    assert picture.shape[1] > 1000 and picture.std() > 10


def test_mistakes_are_told_in_one_line(tool, shapes, tmp_path):
    words = ('--gpus', 8, '--cfg-options', 'train_dataloader.dataset.ann_file=x')
    done = tool('plan.py', LAMB, *words)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr.splitlines()[-1].startswith('error: ann_file=')
    assert done.stderr.endswith('Or give the number of images by --images.\n')
    assert 'Traceback' not in done.stderr
    done = tool('plan.py', LAMB, '--images', TRAIN2017, '--plot', tmp_path / 'lr.xyz')
    assert f"error: Invalid --plot='{tmp_path}/lr.xyz'. Must be a .png" in done.stderr
    assert done.returncode == 2
    done = tool('plan.py', LAMB, '--images', 0)
    assert done.returncode == 2 and '0 is below 1' in done.stderr


def test_text_says_each_figure(lamb):
    text = as_text(lamb)
    for part in (
        '11,004: 12 epochs of 917 (117,266 images)',
        '0.00125 as configured',
        '625 updates (68.2% of the first epoch) from 1.25e-06',
        'to 0.000125 after 7,336 updates (epoch 8), to 1.25e-05 after 10,087 updates (epoch 11)',
        '353.4 MB on each rank',  # 8 bytes for each of 44.17 M
        '176.7 MB by each rank, once an update',
    ):
        assert part in text


@pytest.mark.parametrize('name', ['64xb2-lamb-1x', '8xb2-sgd-1x', '64xb2-sgd-2x'])
def test_the_picture_shows_the_lr_and_no_label_is_cut_or_covered(name):
    made = plan(COCO.format(name))
    figure = draw_lr(made, name)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    x, y = axes.lines[0].get_data()
    np.testing.assert_array_equal(x, np.arange(made.updates))
    np.testing.assert_array_equal(y, made.lrs)
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [d.update for d in made.decays]
    (epochs,) = axes.child_axes
    assert epochs.get_xlim() == pytest.approx((0, made.epochs))
    labels = [text for text in axes.texts if text.get_text()]
    assert len(labels) == 2 + len(made.decays)
    boxes = [text.get_window_extent() for text in labels]
    for box in boxes:
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
        assert axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    whole = figure.get_tightbbox().padded(-0.01)
    assert figure.bbox_inches.x0 <= whole.x0 and whole.x1 <= figure.bbox_inches.x1
    assert figure.bbox_inches.y0 <= whole.y0 and whole.y1 <= figure.bbox_inches.y1
