"""Users' evaluators: refused before the start if no evaluation can succeed, else accepted."""

import numpy as np
import pytest
from helpers.common import data_options
from helpers.file_defects import copy_of, edited, perfect, stock
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from test_users_files import RECIPE, assert_one_line, recipe

from mmdet_largebatch import SettingError
from mmdet_largebatch.preflight import check_data
from mmdet_largebatch.preflight.metric_options import logged_names
from mmdet_largebatch.preflight.metrics import Metric


class OwnMetric(CocoMetric):
    """It logs another name."""

    def compute_metrics(self, results):
        return dict(own=1.0)


class OwnHook(Hook):
    """It may log another name."""


@pytest.fixture
def root(shapes, tmp_path):
    return copy_of(shapes, tmp_path / 'data')


def with_metric(cfg, **options):
    cfg.val_evaluator.update(options)
    return cfg


def refusal(cfg):
    with pytest.raises(SettingError) as refused:
        check_data(cfg, ['train', 'val'])
    line = str(refused.value)
    assert len(line.splitlines()) == 1
    return line


def of_stock(cfg):
    """Return what stock MMDetection logs for perfect predictions."""
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    evaluator = Evaluator(cfg.val_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    evaluator.process(list(perfect(dataset, masks=True)))
    return evaluator.evaluate(len(dataset))


def one_picture(content):
    content['images'] = content['images'][:1]
    first = content['images'][0]['id']
    content['annotations'] = [x for x in content['annotations'] if x['image_id'] == first]


COCO = [
    dict(metric='mAP'),
    dict(metric=('bbox', 'segm')),
    dict(metric=['bbox', 'box']),
    dict(iou_thrs=0.5),
    dict(iou_thrs=[0.5]),
    dict(proposal_nums=(300,)),
    dict(proposal_nums=100),
    dict(metric_items=['AP']),
    dict(format_only=True),
    dict(classwise=True, iou_thrs=np.array([0.75])),
    dict(iou_thrs=0.5, metric_items=['AP']),
]


@pytest.mark.parametrize('options', COCO, ids=str)
def test_an_option_that_can_only_fail(root, options):
    """Stock's own evaluation fails with it."""
    cfg = with_metric(recipe(root), metric='bbox', classwise=False)
    cfg = with_metric(cfg, **options)
    key, value = next(iter(options.items()))
    assert refusal(cfg).startswith(f'Invalid val_evaluator.{key}={value!r}. Must be ')
    with pytest.raises(Exception):  # noqa: B017
        of_stock(cfg)


def test_an_ap_that_is_always_minus_1(root):
    """COCO's AP is that of 100 detections; stock logs -1 for perfect predictions."""
    cfg = with_metric(recipe(root), proposal_nums=(300, 500, 1000))
    line = refusal(cfg)
    assert line.startswith('Invalid val_evaluator.proposal_nums=(300, 500, 1000). Must be at least')
    assert 'one of them 100' in line and 'coco/bbox_mAP of perfect predictions is -1' in line
    computed = of_stock(cfg)
    assert (computed['coco/bbox_mAP'], computed['coco/bbox_mAP_50']) == (-1, 1)


GOOD = [
    dict(metric='bbox', proposal_nums=(100, 1, 10)),
    dict(metric='proposal', proposal_nums=(300, 500, 1000)),
    dict(metric='proposal_fast', proposal_nums=(300,), iou_thrs=[0.5]),
    dict(metric='bbox', iou_thrs=np.array([0.5])),
    dict(metric='bbox', iou_thrs=np.array([0.75]), metric_items=['mAP_75']),
    dict(metric=['segm', 'bbox'], classwise=True, prefix='shapes'),
    dict(metric=['proposal', 'bbox'], metric_items=['mAP_50', 'AR@100']),
    dict(metric=[]),
    dict(format_only=True, outfile_prefix='nowhere/at/all'),
]


@pytest.mark.parametrize('options', GOOD, ids=str)
def test_the_names_that_stock_logs(root, options, tmp_path, capfd):
    """Options that stock takes are taken, without output, and give the names that stock logs."""
    # On numpy 2, stock's proposal_fast fails on pictures with unequal numbers of objects.
    edited(root, 'val', one_picture)
    cfg = with_metric(recipe(root), **options)
    assert check_data(cfg, ['train', 'val']) == []
    metric = Metric('val', 'val_evaluator', cfg.val_evaluator, True)
    names = logged_names(metric, cfg.val_dataloader.dataset.metainfo.classes)
    assert capfd.readouterr() == ('', '')
    if 'outfile_prefix' in options:
        cfg.val_evaluator.outfile_prefix = str(tmp_path / 'out')
    assert names == set(of_stock(cfg))


def test_v3det_of_mmdet(root):
    """Its evaluation in several processes takes any numbers of proposals."""
    cfg = with_metric(recipe(root), metric='bbox', proposal_nums=[300], use_mp_eval=True)
    assert check_data(cfg, ['train', 'val']) == []


def as_voc(cfg, **options):
    cfg.val_evaluator = ConfigDict(type='VOCMetric', **options)
    return cfg


def of_voc(cfg):
    """Evaluate a sample of the data set as its own prediction."""
    init_default_scope('mmdet')
    dataset, metric = DATASETS.build(cfg.val_dataloader.dataset), METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    sample = dataset[0]['data_samples'].to_dict()
    found = {key: getattr(value, 'tensor', value) for key, value in sample['gt_instances'].items()}
    scores = found['labels'].double() + 1
    sample = dict(sample, gt_instances=found, pred_instances=dict(found, scores=scores))
    sample['ignored_instances'] = {
        key: getattr(value, 'tensor', value) for key, value in sample['ignored_instances'].items()
    }
    metric.process({}, [sample])
    return metric.evaluate(1)


@pytest.mark.parametrize(
    'options', [dict(iou_thrs=(0.5,)), dict(metric=['mAP', 'recall']), dict(eval_mode='12points')]
)
def test_an_option_of_voc_that_can_only_fail(root, options):
    cfg = as_voc(recipe(root), **options)
    ((key, value),) = options.items()
    assert refusal(cfg).startswith(f'Invalid val_evaluator.{key}={value!r}. Must be ')
    with pytest.raises(Exception):  # noqa: B017
        of_voc(cfg)


def test_names_of_voc(root):
    cfg = as_voc(recipe(root), iou_thrs=[0.5, 0.75])
    assert check_data(cfg, ['train', 'val']) == []
    metric = Metric('val', 'val_evaluator', cfg.val_evaluator, True)
    assert logged_names(metric, None) == set(of_voc(cfg))


def test_voc_without_ground_truth(root):
    """Its predictions have no ground truth beside them."""
    cfg = as_voc(recipe(root))
    dataset = cfg.val_dataloader.dataset
    dataset.pipeline = [x for x in dataset.pipeline if x.type != 'LoadAnnotations']
    line = refusal(cfg)
    assert line.startswith("Invalid val_dataloader.dataset.pipeline=['LoadImageFromFile', ")
    with pytest.raises(KeyError):
        of_voc(cfg)


def test_coco_without_ground_truth(root):
    cfg = with_metric(recipe(root), ann_file=None)
    line = refusal(cfg)
    assert line.startswith('Invalid val_evaluator.ann_file=None. Must be ') and 'instances' in line
    for transform in cfg.val_dataloader.dataset.pipeline:
        if transform.type == 'PackDetInputs':
            transform.meta_keys = ('img_id', 'ori_shape', 'instances')
    assert check_data(cfg, ['train', 'val']) == []


@pytest.mark.parametrize('name', ['bbox_mAP', 'coco/bbox_mAP'])
def test_a_best_that_is_not_logged(root, name):
    cfg = with_metric(recipe(root), metric='bbox', metric_items=['mAP_50'])
    cfg.default_hooks.checkpoint.save_best = ['coco/bbox_mAP_50', name]
    line = refusal(cfg)
    assert line.startswith(f"Invalid default_hooks.checkpoint.save_best='{name}'. Must be 'auto', ")
    assert line.endswith("logs: 'coco/bbox_mAP_50'.")


def test_a_best_that_is_logged(root):
    cfg = with_metric(recipe(root), classwise=True)
    best = ['coco/segm_mAP', 'coco/circle_precision']
    cfg.custom_hooks = [dict(type='CheckpointHook', save_best=best)]
    assert check_data(cfg, ['train', 'val']) == []


@pytest.mark.parametrize('part', ['metric', 'hook', 'evaluator'])
def test_a_best_of_names_that_are_not_known(root, part):
    """A user's own metric or hook may log it, and other evaluators log longer names."""
    cfg = recipe(root)
    cfg.default_hooks.checkpoint.save_best = 'own'
    if part == 'metric':
        cfg = Config({**cfg._cfg_dict, 'val_evaluator': [cfg.val_evaluator, dict(type=OwnMetric)]})
    elif part == 'hook':
        cfg.custom_hooks = [dict(type=OwnHook)]
    else:
        evaluator = dict(type='MultiDatasetsEvaluator', metrics=[cfg.val_evaluator])
        cfg.val_evaluator = dict(evaluator, dataset_prefixes=['shapes'])
    assert check_data(cfg, ['train', 'val']) == []


def warning(cfg):
    (line,) = check_data(cfg, ['train', 'val'])
    return line


def test_some_images_are_left_out(root):
    """CocoMetric evaluates all images of its file: stock's AP of perfect predictions is below 1."""
    cfg = recipe(root, 'val_dataloader.dataset.indices=5')
    line = warning(cfg)
    start = f'val_dataloader.dataset leaves out 3 of the 8 images of val_evaluator.ann_file={root}/'
    assert line.startswith(start)
    assert 'the objects of 3 of them count as missed. The file should list the eval' in line
    assert stock(cfg) < 1


def test_images_without_objects_are_left_out(root):
    """Stock's AP does not see false boxes on them, unless test_mode is set."""

    def empty(content):
        first = content['images'][0]
        content['images'] += [first | dict(id=100 + index) for index in range(4)]

    edited(root, 'val', empty)
    cfg = recipe(root, 'val_dataloader.dataset.test_mode=False')
    cfg.val_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True)
    line = warning(cfg)
    assert line.startswith('val_dataloader.dataset leaves out 4 of the 12 images of ')
    assert line.endswith('images without objects do not count. Set test_mode=True there.')
    init_default_scope('mmdet')
    assert len(DATASETS.build(cfg.val_dataloader.dataset)) == 8
    cfg.val_dataloader.dataset.test_mode = True
    assert check_data(cfg, ['train', 'val']) == []
    assert len(DATASETS.build(cfg.val_dataloader.dataset)) == 12


@pytest.mark.parametrize(
    ('options', 'start'),
    [
        (dict(num_batch_per_epoch=2), '.num_batch_per_epoch=2 evaluates 6 of 8 images on one rank'),
        (dict(num_batch_per_epoch=3), None),
        (dict(drop_last=True), '.drop_last=True may leave out up to 2 images on each rank'),
    ],
)
def test_a_loader_that_leaves_out_images(root, options, start):
    cfg = recipe(root)
    cfg.val_dataloader.update(options, batch_size=3)
    lines = check_data(cfg, ['train', 'val'])
    assert [line.startswith(f'val_dataloader{start}') for line in lines] == [True] * bool(start)


def test_the_tools_refuse_in_one_line(root, tool, tmp_path):
    work = ('--work-dir', tmp_path / 'w', '--cfg-options', *data_options(root))
    done = tool('train.py', RECIPE, *work, 'val_evaluator.iou_thrs=0.5')
    assert_one_line(done, 'Invalid val_evaluator.iou_thrs=0.5. Must be None (0.5 to 0.95), or')
    assert not (tmp_path / 'w').exists()
    assert stock(recipe(root)) == 1.0
