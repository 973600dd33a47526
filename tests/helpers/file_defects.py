"""Annotation files with one defect each, and the AP that stock MMDetection gets from them."""

import codecs
import json
from pathlib import Path

import numpy as np
import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from pycocotools import mask as maskUtils


def annotations(root, split):
    return root / f'annotations/instances_{split}.json'


def edited(root, split, edit):
    """Rewrite a split's file; `edit` changes the content in place or returns the new content."""
    path = annotations(root, split)
    content = json.loads(path.read_text())
    new = edit(content)
    content = content if new is None else new
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def without(name, key, index=None):
    """Remove a key from all entries of a list, or from one."""

    def edit(content):
        for row in content[name] if index is None else [content[name][index]]:
            del row[key]

    return edit


def put(name, index, /, **values):
    def edit(content):
        content[name][index].update(values)

    return edit


def put_all(name, /, **values):
    def edit(content):
        for row in content[name]:
            row.update(values)

    return edit


def top(**values):
    def edit(content):
        content.update(values)

    return edit


def lack(key):
    def edit(content):
        del content[key]

    return edit


def byte_order_mark(content):
    return codecs.BOM_UTF8 + json.dumps(content).encode()


def utf16(content):
    return json.dumps(content).encode('utf-16')


def as_list(content):
    return [content]


def repeat(name, index=0, /, **changed):
    def edit(content):
        content[name].append({**content[name][index], **changed})

    return edit


def xyxy_as_text(content):
    content['annotations'][2]['bbox'] = '10 10 20 20'


TRIANGLE = [1, 1, 9, 1, 9, 9]

# For each: the split, the edit, and parts of the error line.
REFUSED = {
    'byte-order mark': ('train', byte_order_mark, ['byte-order mark', 'UTF-8 without']),
    'byte-order mark in val': ('val', byte_order_mark, ['byte-order mark']),
    'utf-16': ('train', utf16, ['byte-order mark']),
    'a list': ('train', as_list, ['no list of images, annotations, categories']),
    'images are no list': ('train', top(images={}), ['no list of images']),
    'no categories': ('val', lack('categories'), ['no list of categories']),
    'categories: []': ('train', top(categories=[]), ['0 categories']),
    'images: [] in val': ('val', top(images=[]), ['has 0 images']),
    'images: [] in train': ('train', top(images=[]), ['has 0 images']),
    'annotations: [] in train': ('train', top(annotations=[]), ['none of its 0 annotations']),
    'annotations: [] in val': ('val', top(annotations=[]), ['has 0 annotations']),
    'no annotations in val': ('val', lack('annotations'), ['no list of annotations']),
    'an entry that is text': ('train', lambda c: c['images'].append('x'), ['images[20] is no obj']),
    'no area': ('train', without('annotations', 'area'), ["annotations[0] (id 1) has no 'area'"]),
    'no area in one': ('val', without('annotations', 'area', 3), ['annotations[3] (id 4)']),
    'area as text': ('train', put('annotations', 1, area='9'), ["has area='9'"]),
    'no bbox': ('train', without('annotations', 'bbox'), ["has no 'bbox'"]),
    'three numbers': ('train', put('annotations', 2, bbox=[1, 2, 3]), ['has bbox=[1, 2, 3]']),
    'bbox of text': ('train', xyxy_as_text, ["has bbox='10 10 20 20'", 'four numbers']),
    'bbox of null': ('train', put('annotations', 0, bbox=None), ['has bbox=None']),
    'bbox of NaN': (
        'train',
        put('annotations', 0, bbox=[1, 2, np.nan, 4]),
        ['has bbox=[1, 2, nan'],
    ),
    'no iscrowd in val': ('val', without('annotations', 'iscrowd'), ["has no 'iscrowd'"]),
    'iscrowd of null': ('val', put('annotations', 0, iscrowd=None), ['has iscrowd=None']),
    'no width': ('train', without('images', 'width'), ["images[0] (id 0) has no 'width'"]),
    'no height in val': ('val', without('images', 'height', 2), ['images[2]', "no 'height'"]),
    'width as text': ('train', put('images', 1, width='128'), ["has width='128'"]),
    'no file_name': ('train', without('images', 'file_name'), ["no 'file_name'"]),
    'no image id': ('train', without('images', 'id'), ["images[0] has no 'id'"]),
    'no annotation id': ('train', without('annotations', 'id'), ["annotations[0] has no 'id'"]),
    'no image_id': ('train', without('annotations', 'image_id', 1), ["no 'image_id'"]),
    'no category_id': ('train', without('annotations', 'category_id', 1), ["no 'category_id'"]),
    'a list as image_id': ('train', put('annotations', 1, image_id=[1]), ['has image_id=[1]']),
    'image id twice': ('val', repeat('images'), ['the id 0 stands twice in images']),
    'annotation id twice': ('train', repeat('annotations', 4), ['stands twice in annotations']),
    'category id twice': ('train', repeat('categories', 0, name='x'), ['twice in categories']),
    'name twice': ('train', repeat('categories', 0, id=9), ["'circle' is the name of 2"]),
    'segmentation: []': (
        'train',
        put_all('annotations', segmentation=[]),
        ['has segmentation=[]', 'with_mask=True'],
    ),
    'segmentation: [] in one': (
        'train',
        put('annotations', 5, segmentation=[]),
        ['annotations[5]'],
    ),
    'no segmentation': ('train', without('annotations', 'segmentation'), ["no 'segmentation'"]),
    'no segmentation in val': ('val', without('annotations', 'segmentation', 0), ['segmentation']),
    'a flat polygon': (
        'train',
        put('annotations', 0, segmentation=[1, 1, 9, 1, 9, 9]),
        ['has segmentation=[1, 1, 9, 1, 9, 9]', '[[x1, y1'],
    ),
    'all of a category that is not there': (
        'train',
        put_all('annotations', category_id=77),
        ['none of its', 'annotations can be trained on'],
    ),
    'all of a category that is not there in val': (
        'val',
        put_all('annotations', category_id=77),
        ['has no object of the classes', 'computes no AP'],
    ),
    'a null in a polygon': (
        'train',
        put('annotations', 0, segmentation=[[1, 1, 9, None, 9, 9]]),
        ['has segmentation=[[1, 1, 9, None, 9, 9]]'],
    ),
    'a null in a polygon in val': (
        'val',
        put('annotations', 0, segmentation=[[1, 1, 9, 1, 9, 9, 1, None]]),
        ['has segmentation=[[1, 1, 9, 1, 9, 9, 1, None]]'],
    ),
    'a coordinate of 1e12': (
        'train',
        put('annotations', 0, segmentation=[[1, 1, 9, 1, 9, 1e12]]),
        ['has segmentation=[[1, 1, 9, 1, 9, 1000000000000.0]]'],
    ),
    'text in a second polygon': (
        'train',
        put('annotations', 0, segmentation=[TRIANGLE, ['a'] * 6]),
        ["9], ['a'"],
    ),
    'two points first in val': (
        'val',
        put('annotations', 0, segmentation=[[1, 1, 9, 9], TRIANGLE]),
        ['has segmentation=[[1, 1, 9, 9], [1, 1', "computes metric 'segm'"],
    ),
    'a point first in val': (
        'val',
        put('annotations', 0, segmentation=[[1, 1], TRIANGLE]),
        ['has segmentation=[[1, 1], [1, 1'],
    ),
    'an empty polygon first in val': (
        'val',
        put('annotations', 0, segmentation=[[], TRIANGLE]),
        ['has segmentation=[[], [1, 1'],
    ),
    'two points in val': (
        'val',
        put('annotations', 0, segmentation=[[1, 1, 9, 9]]),
        ['has segmentation=[[1, 1, 9, 9]]'],
    ),
    'RLE of a larger image': (
        'train',
        put('annotations', 0, segmentation=dict(counts=[100, 50, 16250], size=[128, 128])),
        ['of 16400 pixels, its image is [128, 128]'],
    ),
    'no image is there': (
        'train',
        put_all('annotations', image_id=999),
        ['none of its', 'annotations can be trained on'],
    ),
    'boxes as shares of the image': (
        'train',
        put_all('annotations', bbox=[0.1, 0.1, 0.2, 0.2]),
        ['none of its', '1 pixel or more'],
    ),
    'another order of categories in val': (
        'val',
        lambda content: content['categories'].reverse(),
        ['val_dataloader.dataset.metainfo.classes', 'another order'],
    ),
    'a class that val lacks': (
        'val',
        lambda content: content['categories'].pop(1) and None,
        ['val_dataloader.dataset.metainfo.classes', "lacks 'square'"],
    ),
    'a picture that is not there': (
        'train',
        put('images', 3, file_name='none.png'),
        ['train_dataloader.dataset.data_prefix.img', 'none.png is not there; 1 of 20 files'],
    ),
}

# Stock MMDetection reads and evaluates these correctly. The last value is part of a warning.
ACCEPTED = {
    'nothing changed': ('train', lambda content: None, None),
    'no iscrowd in train': ('train', without('annotations', 'iscrowd'), None),
    'no info and licenses': ('train', lambda c: [c.pop(k, 0) for k in ('info',)] and None, None),
    'text as image ids': (
        'val',
        lambda content: (
            [
                [row.update(id=str(row['id'])) for row in content['images']],
                [row.update(image_id=str(row['image_id'])) for row in content['annotations']],
            ]
            and None
        ),
        None,
    ),
    'an object of no category': (
        'train',
        put('annotations', 2, category_id=77),
        'objects are not trained on, their category_id is no id of a category',
    ),
    'ignored regions and others': (
        'val',
        lambda content: (
            [content['annotations'][i].update(category_id=11 * i) for i in (0, 1)] and None
        ),
        '2 of 18 objects are not evaluated by val_evaluator, their category_id is no id of a',
    ),
    'two points beside a polygon': (
        'train',
        put('annotations', 0, segmentation=[[1, 1, 9, 9], TRIANGLE, [None]]),
        None,
    ),
    'an odd number of coordinates in val': (
        'val',
        put('annotations', 0, segmentation=[[*TRIANGLE, 1, 9, 5]]),
        None,
    ),
    'an empty polygon and a point after one in val': (
        'val',
        put('annotations', 0, segmentation=[TRIANGLE, [], [5, 5]]),
        None,
    ),
    'an image of no object': ('train', repeat('images', 0, id=500), None),
    'an object of no image': (
        'train',
        repeat('annotations', 0, id=900, image_id=999),
        'their image_id is no id of an image',
    ),
    'a box without width': (
        'train',
        put('annotations', 0, bbox=[5, 5, 0, 9]),
        'are not trained on, their box is below 1 pixel',
    ),
    'a polygon of two points': (
        'train',
        put('annotations', 0, segmentation=[[1, 1, 9, 9]]),
        'are not trained on, their mask cannot be used',
    ),
    'an ignored object without a box': (
        'train',
        lambda content: content['annotations'].append(
            dict(id=900, image_id=0, category_id=1, ignore=1)
        ),
        None,
    ),
    'RLE': (
        'train',
        put('annotations', 0, segmentation=dict(counts=[100, 50, 16234], size=[128, 128])),
        None,
    ),
    'another category, without objects': (
        'val',
        lambda content: content['categories'].insert(0, dict(id=0, name='shapes')),
        None,
    ),
}


def encoded(mask, height, width):
    """Encode a mask, of several polygons the longest."""
    if isinstance(mask, list):
        mask = [max(mask, key=len)]
        return maskUtils.merge(maskUtils.frPyObjects(mask, height, width))
    return maskUtils.frPyObjects(mask, height, width)


def perfect(dataset, masks):
    """Iterate over the objects of a data set, as predictions."""
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        shape, objects = (info['height'], info['width']), info['instances']
        boxes = torch.tensor([x['bbox'] for x in objects]).reshape(-1, 4)
        labels = torch.tensor([x['bbox_label'] for x in objects], dtype=torch.long)
        found = dict(bboxes=boxes, labels=labels, scores=torch.ones(len(labels)))
        if masks:
            found['masks'] = [encoded(x['mask'], *shape) for x in objects]
        yield dict(img_id=info['img_id'], ori_shape=shape, pred_instances=found)


def stock(cfg: Config) -> float:
    """Read train and val as MMDetection does; return the AP of perfect predictions, the lowest."""
    for split in ('train', 'val'):
        dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
        for index in range(len(dataset)):
            dataset[index]
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    metric.process({}, list(perfect(dataset, 'segm' in metric.metrics)))
    computed = metric.evaluate(len(dataset))
    return min(computed[f'coco/{name}_mAP'] for name in metric.metrics)


def copy_of(shapes: Path, root: Path) -> Path:
    """Copy the shapes, with links to the pictures."""
    (root / 'annotations').mkdir(parents=True)
    for split in ('train', 'val'):
        (root / split).symlink_to(shapes / split)
        annotations(root, split).write_bytes(annotations(shapes, split).read_bytes())
    return root
