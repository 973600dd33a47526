"""Classes that differ between heads, metainfo and files are refused before the start."""

import json

import pytest
from helpers.common import data_options
from helpers.file_defects import annotations, copy_of, edited, perfect, put
from helpers.users_data import OWN
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from test_users_files import RECIPE, assert_one_line, recipe

from mmdet_largebatch import SettingError
from mmdet_largebatch.preflight import check_data

SPLITS = ('train', 'val', 'test')


@pytest.fixture
def root(shapes, tmp_path):
    return copy_of(shapes, tmp_path / 'data')


def with_classes(cfg, classes, splits=SPLITS):
    for split in splits:
        cfg[f'{split}_dataloader'].dataset.metainfo = dict(classes=classes)
    return cfg


def heads(cfg, number):
    cfg.model.roi_head.bbox_head.num_classes = number
    cfg.model.roi_head.mask_head.num_classes = number
    return cfg


def refusal(cfg, splits=('train', 'val')):
    with pytest.raises(SettingError) as refused:
        check_data(cfg, splits)
    return str(refused.value)


def test_heads(root, tool, tmp_path):
    for key in ('bbox_head', 'mask_head'):
        setting = f'model.roi_head.{key}.num_classes'
        line = refusal(recipe(root, f'{setting}=4'))
        start = f'Invalid {setting}=4. Must be 3, as train_dataloader.dataset has 3 classes: '
        assert line.startswith(start)
    options = [*data_options(root), 'model.roi_head.bbox_head.num_classes=80']
    done = tool('train.py', RECIPE, '--work-dir', tmp_path / 'w', '--cfg-options', *options)
    assert_one_line(done, 'model.roi_head.bbox_head.num_classes=80', 'Must be 3')


def test_a_head_without_num_classes_has_its_class_default(root):
    cfg = recipe(root)
    del cfg.model.roi_head.mask_head.num_classes
    assert refusal(cfg).startswith('Invalid model.roi_head.mask_head.num_classes=80. ')


def test_heads_in_a_list_and_in_a_detector_inside(root):
    cfg = recipe(root)
    head = cfg.model.roi_head.bbox_head
    wrong = ConfigDict(head, num_classes=5)
    cfg.model = ConfigDict(type='SoftTeacher', detector=cfg.model)
    cfg.model.detector.roi_head.bbox_head = [head, wrong]
    line = refusal(cfg)
    assert line.startswith('Invalid model.detector.roi_head.bbox_head.1.num_classes=5. ')


@pytest.mark.parametrize(
    ('classes', 'parts'),
    [
        ('circle', ["metainfo.classes='circle'", "('circle',)", 'comma']),
        (('circle', 'circle', 'square'), ["'circle' stands twice"]),
        (
            ('circle', 'square', 'star'),
            ['Must be names of the categories of ann_file=', "lacks 'star'"],
        ),
        (('square', 'circle', 'triangle'), ['another order', "'circle', 'square', 'triangle'"]),
        ((), ['Must be a list of class names.']),
    ],
)
def test_metainfo(root, classes, parts):
    line = refusal(with_classes(recipe(root), classes))
    assert line.startswith('Invalid train_dataloader.dataset.metainfo.classes=')
    for part in parts:
        assert part in line


def test_val_has_other_classes_than_train(root):
    cfg = with_classes(recipe(root), ('circle', 'square', 'kite'), ['val'])
    line = refusal(cfg)
    assert line.startswith('Invalid val_dataloader.dataset.metainfo.classes=') and "'kite'" in line


def test_no_metainfo_means_coco_classes(root):
    cfg = heads(recipe(root), 80)
    for split in SPLITS:
        del cfg[f'{split}_dataloader'].dataset.metainfo
    line = refusal(cfg)
    assert "not set, so the 80 of CocoDataset's own METAINFO" in line


def test_some_of_the_classes_are_trained_with_a_warning(root):
    cfg = heads(with_classes(recipe(root), ('circle', 'square')), 2)
    (line,) = check_data(cfg, ['train', 'val'])
    assert "metainfo.classes lacks their classes 'triangle'" in line
    content = json.loads(annotations(root, 'train').read_text())
    dropped = sum(row['category_id'] == 3 for row in content['annotations'])
    assert f'{dropped} of {len(content["annotations"])} objects are not trained on' in line


def test_a_further_file_to_train_on_lacks_the_last_classes(root):
    """As one of people beside COCO: MMDetection gives its objects the same labels."""
    content = json.loads(annotations(root, 'train').read_text())
    first, *_ = content['categories']
    objects = [x for x in content['annotations'] if x['category_id'] == first['id']]
    content.update(categories=[first], annotations=objects)
    (root / 'annotations/first.json').write_text(json.dumps(content))
    cfg = recipe(root)
    whole = cfg.train_dataloader.dataset
    part = ConfigDict(whole, ann_file='annotations/first.json')
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[whole, part])
    check_data(cfg, ['train', 'val'])
    loaded = DATASETS.build(part).load_data_list()
    assert {x['bbox_label'] for info in loaded for x in info['instances']} == {0}


def test_segm_without_masks(root):
    cfg = recipe(root)
    cfg.model.type = 'FasterRCNN'
    cfg.model.roi_head.mask_head = None
    line = refusal(cfg)
    assert line.startswith('Invalid val_evaluator.metric=') and "'segm' needs masks" in line


def trained_on_others(cfg, root, **metric):
    """Train on a file of one category, and evaluate on that of three."""
    edited(root, 'train', one_category)
    cfg.val_evaluator.update(metric)
    return with_classes(cfg, ('object',), ['train'])


def one_category(content):
    content['categories'] = [dict(id=1, name='object')]
    for row in content['annotations']:
        row['category_id'] = 1


def ap_of_label_0(cfg):
    """Return what stock logs for perfect proposals, all of the first class."""
    init_default_scope('mmdet')
    dataset, metric = DATASETS.build(cfg.val_dataloader.dataset), METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    samples = list(perfect(dataset, masks=False))
    for sample in samples:
        sample['pred_instances']['labels'] *= 0
    metric.process({}, samples)
    return metric.evaluate(len(dataset))


@pytest.mark.parametrize('model', ['RPN', 'one class'])
def test_proposals_are_evaluated_on_other_classes(root, model):
    cfg = trained_on_others(recipe(root), root, metric='proposal')
    if model == 'RPN':
        rpn = {key: cfg.model[key] for key in ('backbone', 'neck', 'rpn_head')}
        cfg = Config({**cfg._cfg_dict, 'model': dict(rpn, type='RPN')})
    else:
        cfg = heads(cfg, 1)
    assert check_data(cfg, ['train', 'val']) == []
    assert ap_of_label_0(cfg)['coco/AR@100'] == 1


def test_proposals_of_more_classes_than_there_are(root):
    """Stock has no category for them."""
    cfg = heads(trained_on_others(recipe(root), root, metric=['proposal', 'bbox']), 1)
    assert 'Must be 3, as val_dataloader.dataset has 3 classes' in refusal(cfg)
    cfg = heads(recipe(root, 'val_evaluator.metric=proposal'), 4)
    assert 'num_classes=4' in refusal(cfg)


def unlabeled(categories):
    """Remove the annotations, and all categories but some."""

    def edit(content):
        content['annotations'] = []
        content['categories'] = content['categories'][:categories]

    return edit


@pytest.mark.parametrize('categories', [0, 1, 3])
def test_pictures_without_labels_need_no_categories(root, categories):
    """They are a part of a semi-supervised training. Alone they are refused."""
    labeled = root / 'annotations/labeled.json'
    labeled.write_bytes(annotations(root, 'train').read_bytes())
    edited(root, 'train', unlabeled(categories))
    cfg = recipe(root)
    without = cfg.train_dataloader.dataset
    without.filter_cfg = dict(filter_empty_gt=False)
    assert f'ann_file={annotations(root, "train")}: ' in refusal(cfg, ['train'])
    sets = [ConfigDict(without, ann_file=str(labeled)), without]
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=sets)
    assert check_data(cfg, ['train']) == []
    init_default_scope('mmdet')
    assert len(DATASETS.build(cfg.train_dataloader.dataset)) == 20 + 20
    sets[0].ann_file = without.ann_file
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=sets)
    assert 'none of its 0 annotations' in refusal(cfg, ['train'])


@pytest.mark.parametrize('kind', ['Concat', 'Repeat', 'ClassBalanced', 'MultiImageMix', 'scoped'])
def test_wrappers_are_looked_into(root, kind):
    cfg = recipe(root)
    inner = cfg.train_dataloader.dataset
    outer = dict(
        Concat=dict(type='ConcatDataset', datasets=[inner, inner]),
        Repeat=dict(type='RepeatDataset', times=2, dataset=inner),
        ClassBalanced=dict(type='ClassBalancedDataset', oversample_thr=0.1, dataset=inner),
        MultiImageMix=dict(type='MultiImageMixDataset', dataset=inner, pipeline=[]),
        scoped=ConfigDict(inner, type='mmdet.CocoDataset'),
    )[kind]
    cfg = Config({**cfg._cfg_dict, 'train_dataloader': dict(cfg.train_dataloader, dataset=outer)})
    assert check_data(cfg, ['train', 'val']) == []
    content = json.loads(annotations(root, 'train').read_text())
    del content['annotations'][0]['area']
    annotations(root, 'train').write_text(json.dumps(content))
    assert "has no 'area'" in refusal(cfg)


def test_a_file_of_names_is_no_string(root, tmp_path):
    names = tmp_path / 'names.txt'
    names.write_text('circle\nsquare\ntriangle\n')
    assert check_data(with_classes(recipe(root), str(names)), ['train', 'val']) == []


def test_text_as_classes_of_another_data_set(root, tmp_path):
    """Stock's XMLDataset takes its letters for classes, and fails on the first object."""
    cfg = recipe(root)
    (tmp_path / 'Annotations').mkdir()
    xml = '<annotation><size><width>9</width><height>9</height></size>{}</annotation>'
    corners = dict(xmin=1, ymin=1, xmax=8, ymax=8)
    box = ''.join(f'<{key}>{value}</{key}>' for key, value in corners.items())
    thing = f'<object><name>cat</name><difficult>0</difficult><bndbox>{box}</bndbox></object>'
    (tmp_path / 'Annotations/a.xml').write_text(xml.format(thing))
    (tmp_path / 'all.txt').write_text('a')
    dataset = dict(type='XMLDataset', ann_file='all.txt', data_root=f'{tmp_path}', pipeline=[])
    dataset['data_prefix'] = dict(sub_data_root='')
    for classes in (('cat',), ['cat', 'dog'], 'cat'):
        dataset['metainfo'] = dict(classes=classes)
        cfg.train_dataloader.dataset = dataset
        init_default_scope('mmdet')
        if isinstance(classes, str):
            line = refusal(cfg, ['train'])
            assert line.startswith("Invalid train_dataloader.dataset.metainfo.classes='cat'. Must")
            with pytest.raises(KeyError):
                DATASETS.build(dataset)[0]
        else:
            assert check_data(cfg, ['train']) == []
            assert len(DATASETS.build(dataset)[0]['instances']) == 1


def test_another_data_set_is_left_alone(root):
    """Files of other classes of data sets, and remote files, are not opened."""
    cfg = recipe(root)
    cfg.train_dataloader.dataset.type = 'VOCDataset'
    annotations(root, 'train').write_text('no JSON')
    assert check_data(cfg, ['train']) == []
    cfg = recipe(root)
    cfg.train_dataloader.dataset.data_root = 's3://bucket/'
    assert check_data(cfg, ['train']) == []


@pytest.mark.parametrize('name', OWN)
def test_what_a_users_own_class_reads_in_its_own_way_is_left_alone(root, name):
    """MMDetection builds the class and reads its data."""
    if name == 'a filter':
        edited(root, 'train', put('images', 3, file_name='none.png'))
    cfg = OWN[name](recipe(root))
    assert check_data(cfg, ['train', 'val']) == []
    for split in ('train', 'val'):
        assert DATASETS.build(cfg[f'{split}_dataloader'].dataset)[0]
    Runner.build_evaluator(None, cfg.val_evaluator)
    MODELS.build(cfg.model.roi_head.bbox_head)
