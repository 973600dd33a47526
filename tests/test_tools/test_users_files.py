"""Users' annotation files: refused if stock MMDetection fails or is wrong, else accepted."""

import json

import pytest
from helpers.common import ROOT, data_options
from helpers.file_defects import (
    ACCEPTED,
    REFUSED,
    annotations,
    copy_of,
    edited,
    put,
    put_all,
    stock,
)
from helpers.tools import assert_one_line
from mmdet.registry import TRANSFORMS
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from PIL import Image

from mmdet_largebatch import SettingError
from mmdet_largebatch.preflight import check_data

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
WARMUP = 'default_hooks.lr.warmup_iters=2'


def recipe(root, *options):
    cfg = Config.fromfile(ROOT / RECIPE)
    pairs = [option.split('=', 1) for option in (*data_options(root), *options)]
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in pairs})
    return cfg


@pytest.fixture
def root(shapes, tmp_path):
    return copy_of(shapes, tmp_path / 'data')


@pytest.fixture
def train(tool, root, tmp_path):
    def run(*options):
        options = (*data_options(root), *options)
        return tool('train.py', RECIPE, '--work-dir', tmp_path / 'w', '--cfg-options', *options)

    return run


@pytest.mark.parametrize('name', REFUSED)
def test_a_defect_is_refused(name, root):
    split, edit, parts = REFUSED[name]
    edited(root, split, edit)
    with pytest.raises(SettingError) as refused:
        check_data(recipe(root), ['train', 'val'])
    line = str(refused.value)
    assert len(line.splitlines()) == 1 and str(root) in line
    for part in parts:
        assert part in line


TYPED = ['byte-order mark', 'images: [] in val', 'segmentation: []', 'image id twice']
ROWS = [pytest.param(x, marks=[pytest.mark.whole] * (x not in TYPED)) for x in REFUSED]


@pytest.mark.parametrize('name', ROWS)
def test_the_tool_refuses_a_defect_in_one_line(name, root, train, tmp_path):
    split, edit, parts = REFUSED[name]
    edited(root, split, edit)
    assert_one_line(train(), str(root), *parts)
    assert not (tmp_path / 'w').exists()


# Stock MMDetection reads these without an error, then is wrong, fails later or never learns.
SILENT = {
    'annotations: [] in train',
    'image id twice',
    'category id twice',
    'name twice',
    'bbox of NaN',
    'a class that val lacks',
    'another order of categories in val',
    'no segmentation in val',
    'all of a category that is not there',
    'no image is there',
    'boxes as shares of the image',
}

# Stock MMDetection is killed by the system, for it asks for more memory than there is.
KILLED = {'a null in a polygon', 'a null in a polygon in val', 'a coordinate of 1e12'}


@pytest.mark.parametrize('name', sorted(ACCEPTED))
def test_what_stock_takes_is_taken(name, root):
    split, edit, warning = ACCEPTED[name]
    edited(root, split, edit)
    cfg = recipe(root)
    lines = check_data(cfg, ['train', 'val'])
    assert [warning in line for line in lines] == ([True] if warning else [])
    init_default_scope('mmdet')
    assert stock(cfg) == 1.0


def test_annotation_id_0(root, tool, tmp_path):
    """Perfect predictions get an AP below 1. Train, test and plan give the reason."""

    def from_zero(content):
        for index, row in enumerate(content['annotations']):
            row['id'] = index

    edited(root, 'val', from_zero)
    cfg = recipe(root)
    assert stock(cfg) < 1
    (line,) = check_data(cfg, ['train', 'val'])
    assert f'ann_file={root}/annotations/instances_val.json' in line and 'the id 0' in line
    assert check_data(cfg, ['test']) == [line]
    done = tool('plan.py', RECIPE, '--cfg-options', *data_options(root), WARMUP)
    assert done.returncode == 0 and f'warning: {line}' in done.stderr
    assert 'warning: ' not in done.stdout


def test_boxes_alone_are_enough_without_masks(root):
    edited(root, 'train', put_all('annotations', segmentation=[]))
    edited(root, 'val', put_all('annotations', segmentation=[]))
    cfg = recipe(root, 'val_evaluator.metric=bbox')
    for split in ('train', 'val'):
        for transform in cfg[f'{split}_dataloader'].dataset.pipeline:
            if transform.type == 'LoadAnnotations':
                transform.with_mask = False
    assert check_data(cfg, ['train', 'val']) == []
    assert stock(cfg) == 1.0


def test_masks_of_images_that_are_left_out_are_not_read(root):
    def small(content):
        content['images'][0].update(width=20, height=20)
        for row in content['annotations']:
            if row['image_id'] == content['images'][0]['id']:
                row.update(bbox=[1, 1, 9, 9], segmentation=[])

    edited(root, 'train', small)
    cfg = recipe(root)
    cfg.train_dataloader.dataset.filter_cfg = dict(filter_empty_gt=True, min_size=32)
    assert check_data(cfg, ['train', 'val']) == []
    assert stock(cfg) == 1.0


def test_a_folder_of_pictures_that_is_not_there(train):
    done = train('train_dataloader.dataset.data_prefix.img=pictures/')
    assert_one_line(
        done, 'Invalid train_dataloader.dataset.data_prefix.img=', "pictures/'. Must be"
    )


@pytest.mark.parametrize('key', ['backend_args', 'file_client_args'])
@pytest.mark.parametrize(('backend', 'checked'), [('petrel', False), ('disk', True)])
def test_pictures_behind_a_backend_are_not_looked_for(root, key, backend, checked):
    """mmcv's loader takes both names, and the same folder on a disk is checked."""
    cfg = recipe(root, 'train_dataloader.dataset.data_prefix.img=pictures/')
    loader = cfg.train_dataloader.dataset.pipeline[0]
    loader.update({'type': 'LoadImageFromFile', key: dict(backend=backend)})
    if checked:
        with pytest.raises(SettingError, match='pictures/'):
            check_data(cfg, ['train'])
    else:
        assert check_data(cfg, ['train']) == []


def test_another_key_of_the_prefix(train):
    done = train('val_dataloader.dataset.data_prefix._delete_=True')
    assert_one_line(done, 'val_dataloader.dataset.data_prefix', "dict(img='train/')")


def test_an_empty_prefix_is_the_data_root(root):
    cfg = recipe(root)
    for split in ('train', 'val'):

        def in_folder(content, folder=split):
            for row in content['images']:
                row['file_name'] = f'{folder}/{row["file_name"]}'

        edited(root, split, in_folder)
        cfg[f'{split}_dataloader'].dataset.data_prefix = dict(img='')
    assert check_data(cfg, ['train', 'val']) == []
    assert stock(cfg) == 1.0


def pictures_more(count, **changed):
    """Add images with the picture of the first one."""

    def edit(content):
        first = content['images'][0] | changed
        content['images'] += [first | dict(id=1000 + index) for index in range(count)]

    return edit


def test_more_pictures_are_missing_than_are_looked_for(root):
    edited(root, 'val', pictures_more(1100, file_name='none.png'))
    with pytest.raises(SettingError, match='none.png is not there; at least 1000 of 1108 files'):
        check_data(recipe(root), ['val'])


def test_pictures_in_a_folder_that_cannot_be_listed(root, monkeypatch):
    """They open by name. The superuser, who may run this, can list every folder."""

    def refused(path):
        raise PermissionError(path)

    edited(root, 'val', pictures_more(1100))
    cfg = recipe(root)
    with monkeypatch.context() as patched:
        patched.setattr('os.scandir', refused)
        lines = check_data(cfg, ['val'], metrics=False)
    assert lines == []


@pytest.mark.parametrize('options', [{}, dict(color_type='unchanged')], ids=str)
@pytest.mark.parametrize(('orientation', 'size'), [(1, (60, 40)), (6, (60, 40)), (1, (120, 80))])
@pytest.mark.parametrize('ending', ['jpg', 'png'])
def test_pictures_that_are_loaded_in_another_size(root, ending, orientation, size, options):
    """mmcv's loader turns pictures by their EXIF orientation. The annotations say 60 x 40."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = root / f'own.{ending}'
    Image.new('RGB', size).save(path, exif=exif)
    edited(root, 'val', put('images', 2, file_name=f'{root}/own.{ending}', width=60, height=40))
    edited(root, 'val', put_all('annotations', bbox=[1, 1, 9, 9]))
    cfg = recipe(root)
    cfg.val_dataloader.dataset.pipeline[0].update(type='LoadImageFromFile', **options)
    lines = check_data(cfg, ['val'])
    loader = dict(type='LoadImageFromFile', **options)
    height, width = TRANSFORMS.build(loader)(dict(img_path=str(path)))['ori_shape']
    if (width, height) == (60, 40) or ending == 'png' and orientation == 6:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f'val_dataloader.dataset: {path} is loaded with {width} x {height} ')
        assert f'has 60 x 40 in ann_file={annotations(root, "val")} (1 of 8 pictures' in line


@pytest.mark.parametrize('field', ['file_name', None])
def test_an_evaluator_left_on_another_set(train, root, field):
    """The other set has other ids, or the same ids and other pictures."""
    content = json.loads(annotations(root, 'train').read_text())
    ids = {row['id'] for row in content['images'][:8]}
    if field:
        content['images'] = content['images'][:8]
        content['annotations'] = [row for row in content['annotations'] if row['image_id'] in ids]
    other = root / 'other.json'
    other.write_text(json.dumps(content))
    done = train(f'val_evaluator.ann_file={other}')
    start = f"Invalid val_evaluator.ann_file='{other}'. Must be "
    assert_one_line(done, start, 'instances_val', 'describes another set')


def test_a_copy_of_the_file_is_no_other_set(root):
    copied = root / 'copied.json'
    copied.write_bytes(annotations(root, 'val').read_bytes())
    assert check_data(recipe(root, f'val_evaluator.ann_file={copied}'), ['train', 'val']) == []


@pytest.mark.whole
@pytest.mark.parametrize('name', sorted(set(REFUSED) - SILENT - KILLED))
def test_stock_fails_on_what_is_refused_or_is_wrong(name, root):
    """MMDetection's own reading is the reference for the table."""
    split, edit, _ = REFUSED[name]
    edited(root, split, edit)
    init_default_scope('mmdet')
    try:
        ap = stock(recipe(root))
    except Exception:
        return
    assert ap != 1.0
