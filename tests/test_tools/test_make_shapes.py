"""The generated set is COCO's format, fits its pictures and comes out the same again."""

import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

TOOL = 'make_shapes.py'


@pytest.fixture(scope='module')
def coco(shapes):
    return COCO(shapes / 'annotations/instances_train.json')


def test_pycocotools_reads_it(coco, shapes):
    assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == ['circle', 'square', 'triangle']
    assert len(coco.getImgIds()) == 20
    assert all(1 <= len(coco.getAnnIds(image)) <= 4 for image in coco.getImgIds())
    for image in coco.loadImgs(coco.getImgIds()):
        picture = cv2.imread(str(shapes / 'train' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3) == (128, 128, 3)


def test_polygons_lie_on_what_is_drawn(coco, shapes):
    """Inside a polygon the picture has one colour, and around it another, but for the noise."""
    for image in coco.loadImgs(coco.getImgIds()):
        picture = cv2.imread(str(shapes / 'train' / image['file_name'])).astype(float)
        masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(image['id']))]
        background = np.median(picture[np.sum(masks, axis=0) == 0], axis=0)
        for mask in masks:
            ring = cv2.dilate(mask, np.ones((5, 5), np.uint8)) - cv2.dilate(
                mask, np.ones((3, 3), np.uint8)
            )
            inner = cv2.erode(mask, np.ones((3, 3), np.uint8))
            color = np.median(picture[inner == 1], axis=0)
            # The tool keeps colours 60 apart from the background; the noise has sigma 12, so a
            # median over tens of pixels is a few off, and less where values are cut at 0 and 255.
            assert np.abs(color - background).max() > 40
            assert np.abs(np.median(picture[ring == 1], axis=0) - background).max() < 15
            # Pixels on the far side of the halfway colour: those the noise throws there.
            nearer = np.linalg.norm(picture - color, axis=2) < np.linalg.norm(
                picture - background, axis=2
            )
            assert nearer[inner == 1].mean() > 0.97
            assert nearer[ring == 1].mean() < 0.05


def test_boxes_and_areas_are_those_of_the_polygons(coco):
    """pycocotools' own rasterised polygon is the reference; it is off by up to a pixel's rim."""
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        ys, xs = np.nonzero(mask)
        left, top, width, height = annotation['bbox']
        box = np.array([left, top, left + width, top + height])
        assert np.abs(box - [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).max() < 2
        corners = np.array(annotation['segmentation'][0]).reshape(-1, 2)
        rim = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).sum()
        assert abs(annotation['area'] - mask.sum()) < rim


def test_same_seed_same_bytes_and_a_longer_set_begins_like_a_shorter(tmp_path, shapes, tool):
    tool(TOOL, '--out', tmp_path, '--train', 24, '--val', 8, process=True).check_returncode()
    for number in range(20):
        name = f'train/{number:06d}.png'
        assert (tmp_path / name).read_bytes() == (shapes / name).read_bytes()
    assert (tmp_path / 'annotations/instances_val.json').read_bytes() == (
        shapes / 'annotations/instances_val.json'
    ).read_bytes()


def test_what_stands_is_not_written_again_and_an_unfinished_set_is(tmp_path, tool):
    arguments = (TOOL, '--out', tmp_path, '--train', 3, '--val', 2)
    tool(*arguments).check_returncode()
    picture, annotations = tmp_path / 'train/000001.png', tmp_path / 'annotations'
    picture.write_bytes(b'')
    assert '3 pictures are there' in tool(*arguments).stdout
    assert picture.read_bytes() == b''
    # Without its annotation file, written last, a split counts as unfinished.
    (annotations / 'instances_train.json').unlink()
    tool(*arguments).check_returncode()
    assert cv2.imread(str(picture)) is not None
    assert len(json.loads((annotations / 'instances_train.json').read_text())['images']) == 3


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (('--train', 0), '0 is below 1'),
        (('--size', 8), '--size 8: must be >= 32'),
        (('--seed', -1), '--seed -1: must be >= 0'),
    ],
)
def test_wrong_settings(tmp_path, tool, option, message):
    done = tool(TOOL, '--out', tmp_path, *option)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
