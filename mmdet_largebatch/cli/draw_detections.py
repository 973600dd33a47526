"""Draw the detections of a checkpoint on the first images of the test data.

python tools/draw_detections.py CONFIG CHECKPOINT --out detections.png
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import mmcv
import numpy as np
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.visualization.palette import get_palette
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.fileio import get
from mmengine.model import BaseModel
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

from ..checks import check
from ..errors import SettingError
from . import (
    ConfigOptions,
    check_checkpoint,
    check_output,
    check_settings,
    check_weights,
    look_at_data,
    one_line_errors,
)

# Height of a label and width of its letters, as fractions of the picture.
LABEL_HEIGHT, LABEL_WIDTH = 0.052, 0.024


def free_spot(box: np.ndarray, width: float, size: float, taken: list[tuple]) -> tuple:
    """Find a place for the label of a box where it covers no other label.

    Args:
        box (np.ndarray): Left, top, right and bottom of the detection in pixels.
        width (float): Width of the label in pixels.
        size (float): Longer side of the picture in pixels.
        taken (list[tuple]): Left, top and width of the labels so far; the new label is appended.

    Returns:
        tuple: Left and top of the label in pixels.
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


def colour(palette: list[tuple] | str | None, label: int) -> np.ndarray:
    """Return the colour of a class.

    Args:
        palette (list[tuple] or str, optional): Colours of the dataset in [0, 255], or the name of
            a palette of mmdet.
        label (int): Class index.

    Returns:
        np.ndarray: RGB in [0, 1]; a colour of matplotlib if the dataset has none.
    """
    if isinstance(palette, str):
        palette = get_palette(palette, label + 1)
    if palette is not None and label < len(palette):
        return np.array(palette[label][:3]) / 255
    return np.array(plt.get_cmap('tab10')(label % 10)[:3])


def draw(axes: plt.Axes, picture: np.ndarray, found: InstanceData, meta: dict) -> None:
    """Draw one image with its detections.

    Args:
        axes (plt.Axes): Axes to draw on.
        picture (np.ndarray): RGB image, uint8 of shape (height, width, 3).
        found (InstanceData): Detections on the CPU: ``bboxes`` (n, 4), ``labels`` (n,), ``scores``
            (n,) and, for instance segmentation, ``masks`` (n, height, width).
        meta (dict): ``classes`` and ``palette`` of the dataset.
    """
    axes.imshow(picture)
    axes.axis('off')
    size, classes = max(picture.shape[:2]), meta.get('classes') or ()
    taken: list[tuple] = []
    for index in range(len(found)):
        label, score = int(found.labels[index]), float(found.scores[index])
        color = colour(meta.get('palette'), label)
        if 'masks' in found:
            mask = np.asarray(found.masks[index], dtype=bool)
            overlay = np.zeros((*mask.shape, 4))
            overlay[mask] = (*color, 0.45)
            axes.imshow(overlay)
        box = found.bboxes[index].numpy()
        left, top, right, bottom = box
        axes.add_patch(
            plt.Rectangle((left, top), right - left, bottom - top, fill=False, color=color, lw=1.5)
        )
        name = classes[label] if label < len(classes) else f'class {label}'
        text = f'{name} {score:.2f}'
        left, top = free_spot(box, LABEL_WIDTH * len(text) * size, size, taken)
        axes.text(
            left,
            top,
            text,
            va='top',
            fontsize=8,
            color='white',
            bbox=dict(facecolor=color, edgecolor='none', pad=1),
        )


def load_model(cfg: Config, checkpoint: str, device: str) -> BaseModel:
    """Build the model and load a checkpoint.

    Args:
        cfg (Config): Config.
        checkpoint (str): Checkpoint file.
        device (str): Device of the model.

    Returns:
        BaseModel: Model in evaluation mode.

    Raises:
        SettingError: If the checkpoint does not fit the model.
    """
    model = cfg.model
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(model))
    check_weights(model, CheckpointLoader.load_checkpoint(checkpoint, 'cpu'), checkpoint)
    model = model.to(device)
    model.eval()
    return model


def storage_of(dataset: Dataset | None) -> dict | None:
    """Return the ``backend_args`` of a dataset.

    Args:
        dataset (Dataset, optional): Dataset, also a wrapper or a concatenation.

    Returns:
        dict, optional: ``backend_args`` of the first dataset inside.
    """
    while not hasattr(dataset, 'backend_args') and hasattr(dataset, 'metainfo'):
        dataset = getattr(dataset, 'dataset', None) or next(
            iter(getattr(dataset, 'datasets', ())), None
        )
    return getattr(dataset, 'backend_args', None)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw the detections of a checkpoint.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out', type=Path, default=Path('detections.png'), help='picture to write (.png, .jpg)'
    )
    parser.add_argument('--pictures', type=int, default=8, help='number of images')
    parser.add_argument('--score', type=float, default=0.6, help='lowest score drawn')
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load a checkpoint that runs code',
    )
    parser.add_argument('--device', help='cpu or cuda:1; the first GPU by default, if any')
    parser.add_argument(
        '--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE', help='as of test.py'
    )
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> str:
    """Check the command line before the model is built.

    Args:
        args (Namespace): Command line.

    Returns:
        str: Device.

    Raises:
        SettingError: If an argument is invalid.
    """
    check(args.pictures >= 1, '--pictures', args.pictures, '>= 1')
    check(0 <= args.score <= 1, '--score', args.score, 'in [0, 1]')
    check_output('--out', args.out, ('.png', '.jpg', '.jpeg', '.pdf', '.svg'))
    try:
        device = args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(
            f'--device={args.device}: not on this machine ({str(error).splitlines()[0]}). Must be '
            'cpu, or a GPU such as cuda:0.'
        ) from error
    return device


@one_line_errors(parse_args)
def main(args: argparse.Namespace, cfg: Config) -> None:
    """Run the detector and draw."""
    device = check_arguments(args)
    check_settings(cfg, ['model', 'test_dataloader'])
    cfg.test_evaluator = None
    cfg.load_from = check_checkpoint('checkpoint', args.checkpoint)
    look_at_data(cfg, ['test'], metrics=False)
    if cfg.get('default_scope', 'mmdet') is not None:
        init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = load_model(cfg, cfg.load_from, device)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    number = min(args.pictures, len(dataset))
    if not number:
        raise SettingError('test_dataloader.dataset has 0 images. Must have at least 1.')
    columns = min(4, number)
    rows = -(-number // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.6 * columns, 2.6 * rows), squeeze=False, layout='constrained'
    )
    for axes in grid.flat[number:]:
        axes.axis('off')
    for index in range(number):
        with torch.no_grad():
            sample = model.test_step(pseudo_collate([dataset[index]]))[0].cpu()
        if 'pred_instances' not in sample:
            raise SettingError(
                f'model.type={type(model).__name__} finds no objects. Must be a detector.'
            )
        content = get(sample.img_path, backend_args=storage_of(dataset))
        picture = mmcv.imfrombytes(content, channel_order='rgb')
        found = sample.pred_instances
        draw(grid.flat[index], picture, found[found.scores >= args.score], dataset.metainfo)
    figure.savefig(args.out, dpi=150)
    print(f'{args.out}: {number} pictures')


if __name__ == '__main__':
    main()
