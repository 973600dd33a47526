"""The pictures that every training of these tests sees."""

import json

import cv2
import pytest


@pytest.fixture(scope='session', autouse=True)
def pictures(tmp_path_factory, shapes):
    """The shared pictures, every third of them narrower; and a list of them with half emptied."""
    root = tmp_path_factory.mktemp('pictures')
    for split in ('train', 'val'):
        content = json.loads((shapes / f'annotations/instances_{split}.json').read_text())
        (root / split).mkdir()
        narrow = {image['id'] for image in content['images'][::3]}
        for image in content['images']:
            picture = cv2.imread(str(shapes / split / image['file_name']))
            if image['id'] in narrow:
                image['width'] = image['width'] * 3 // 4
                picture = cv2.resize(picture, (image['width'], image['height']))
            cv2.imwrite(str(root / split / image['file_name']), picture)
        for annotation in content['annotations']:
            if annotation['image_id'] in narrow:
                x, y, width, height = annotation['bbox']
                annotation['bbox'] = [x * 0.75, y, width * 0.75, height]
                annotation['area'] *= 0.75
                annotation['segmentation'] = [
                    [c * 0.75 if i % 2 == 0 else c for i, c in enumerate(polygon)]
                    for polygon in annotation['segmentation']
                ]
        path = root / f'annotations/instances_{split}.json'
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        emptied = [a for a in content['annotations'] if a['image_id'] % 2]
        path = root / f'annotations/instances_{split}_half_empty.json'
        path.write_text(json.dumps(content | dict(annotations=emptied)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SHAPES', str(root))
        yield root
