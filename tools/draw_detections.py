"""Draw what a checkpoint finds in the first pictures of the config's test data.

python tools/draw_detections.py CONFIG CHECKPOINT --out detections.png
"""

import argparse
from pathlib import Path
from typing import List

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import mmcv
import numpy as np
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmdet_largebatch import SettingError
from mmdet_largebatch.cli import check_checkpoint, look_at_data, one_line_errors

# Of a label, as a share of the picture: its height, and its width a letter.
LABEL_HEIGHT, LABEL_WIDTH = 0.052, 0.024


def free_spot(box: np.ndarray, width: float, size: float, taken: List[tuple]) -> tuple:
    """Where the label of a box hides no other label.

    Args:
        box (np.ndarray): Left, top, right and bottom of the detection, in pixels.
        width (float): Width of the label in pixels.
        size (float): Width and height of the picture in pixels.
        taken (List[tuple]): Left, top and width of the labels drawn already; this one is added.

    Returns:
        tuple: Left and top of the label, in pixels.
    """
    height = LABEL_HEIGHT * size
    left = min(max(box[0], 0), size - width)
    tops = [box[1] - height, box[3], box[3] + height, box[1] - 2 * height, box[1]]
    free = [
        top
        for top in tops
        if 0 <= top <= size - height
        and all(
            abs(top - other_top) >= height or left + width < other or left > other + other_width
            for other, other_top, other_width in taken
        )
    ]
    top = (free or tops[-1:])[0]
    taken.append((left, top, width))
    return left, top


def draw(axes: plt.Axes, picture: np.ndarray, found: InstanceData, meta: dict) -> None:
    """Draw one picture with its detections.

    Args:
        axes (plt.Axes): Where to draw.
        picture (np.ndarray): RGB, uint8 of shape (height, width, 3).
        found (InstanceData): ``bboxes`` (n, 4), ``masks`` (n, height, width), ``labels`` and
            ``scores`` (n,).
        meta (dict): The dataset's ``classes`` and ``palette``.
    """
    axes.imshow(picture)
    axes.axis('off')
    size, taken = max(picture.shape[:2]), []
    for one in range(len(found)):
        box, mask = found.bboxes[one].numpy(), found.masks[one].numpy()
        label, score = int(found.labels[one]), float(found.scores[one])
        color = np.array(meta['palette'][label]) / 255
        overlay = np.zeros((*mask.shape, 4))
        overlay[mask] = (*color, 0.45)
        axes.imshow(overlay)
        left, top, right, bottom = box
        axes.add_patch(
            plt.Rectangle((left, top), right - left, bottom - top, fill=False, color=color, lw=1.5)
        )
        text = f'{meta["classes"][label]} {score:.2f}'
        spot = free_spot(box, LABEL_WIDTH * len(text) * size, size, taken)
        axes.text(
            *spot,
            text,
            va='top',
            fontsize=8,
            color='white',
            bbox=dict(facecolor=color, edgecolor='none', pad=1),
        )


def main() -> None:
    """Read the command line, detect and draw."""
    parser = argparse.ArgumentParser(description='Draw the detections of a checkpoint.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', type=Path, default=Path('detections.png'), help='picture to write (.png, .jpg)'
    )
    parser.add_argument('--pictures', type=int, default=8, help='how many')
    parser.add_argument('--score', type=float, default=0.6, help='lowest score drawn')
    args = parser.parse_args()
    with one_line_errors() as context:
        if not Path(args.config).is_file():
            raise SettingError(f'config={args.config}: no such file.')
        cfg = context['cfg'] = Config.fromfile(args.config)
        cfg.load_from = args.checkpoint
        check_checkpoint('checkpoint', args.checkpoint)
        look_at_data(cfg, ['test'], metrics=False)
        model = init_detector(cfg, args.checkpoint, device='cpu', palette='none')
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        number = min(args.pictures, len(dataset))
        columns = min(4, number)
        rows = -(-number // columns)
        figure, grid = plt.subplots(
            rows, columns, figsize=(2.6 * columns, 2.6 * rows), squeeze=False, layout='constrained'
        )
        for axes in grid.flat[number:]:
            axes.axis('off')
        for index in range(number):
            path = dataset.get_data_info(index)['img_path']
            found = inference_detector(model, path).pred_instances
            picture = mmcv.imread(path, channel_order='rgb')
            draw(grid.flat[index], picture, found[found.scores >= args.score], dataset.metainfo)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(args.out, dpi=150)
        print(f'{args.out}: {number} pictures')


if __name__ == '__main__':
    main()
