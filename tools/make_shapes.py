"""Write a small instance-segmentation set in COCO's format: coloured shapes on noisy pictures.

    python tools/make_shapes.py --out data/shapes

Every picture comes from its own generator, seeded by (--seed, split, number), so a set with fewer
pictures is the beginning of a larger one.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

CLASSES = ('circle', 'square', 'triangle')
CORNERS = {'circle': 32, 'square': 4, 'triangle': 3}


def polygon(kind: str, center: np.ndarray, radius: float, angle: float) -> np.ndarray:
    """Corners of a regular shape.

    Args:
        kind (str): One of ``CLASSES``.
        center (np.ndarray): x and y in pixels, shape (2,).
        radius (float): Distance from the center to the corners, in pixels.
        angle (float): Rotation in radians.

    Returns:
        np.ndarray: x and y of the corners in pixels, shape (corners, 2).
    """
    turns = angle + np.arange(CORNERS[kind]) * (2 * math.pi / CORNERS[kind])
    return center + radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def place(rng: np.random.Generator, size: int, number: int) -> list[tuple[np.ndarray, float]]:
    """Circles inside the picture that do not touch, at most ``number`` of them.

    Args:
        rng (np.random.Generator): Source of the draws.
        size (int): Width and height of the picture in pixels.
        number (int): Circles asked for; fewer where no room is left.

    Returns:
        list[tuple[np.ndarray, float]]: Center (x, y) and radius of each, in pixels.
    """
    placed: list[tuple[np.ndarray, float]] = []
    for _ in range(20 * number):
        radius = rng.uniform(0.1, 0.22) * size
        center = rng.uniform(radius + 1, size - radius - 1, 2)
        if all(np.hypot(*(center - c)) > radius + r + 2 for c, r in placed):
            placed.append((center, radius))
        if len(placed) == number:
            break
    return placed


def draw(rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """One picture and what stands in it.

    Args:
        rng (np.random.Generator): Source of the draws.
        size (int): Width and height in pixels.

    Returns:
        tuple[np.ndarray, list[tuple[int, np.ndarray]]]: The picture, uint8 of shape
        (size, size, 3), and for each shape its index in ``CLASSES`` and its corners.
    """
    background = rng.uniform(40, 215, 3)
    picture = np.full((size, size, 3), background, np.float32)
    objects = []
    for center, radius in place(rng, size, int(rng.integers(1, 5))):
        category = int(rng.integers(len(CLASSES)))
        corners = polygon(CLASSES[category], center, radius, rng.uniform(0, 2 * math.pi))
        color = rng.uniform(0, 255, 3)
        while np.abs(color - background).max() < 60:
            color = rng.uniform(0, 255, 3)
        # fillPoly puts pixel centers at whole coordinates; `shift` keeps four binary places.
        fixed = np.round((corners - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(picture, [fixed], color.tolist(), lineType=cv2.LINE_8, shift=4)
        objects.append((category, corners))
    picture += rng.normal(0, 12, picture.shape)
    return picture.clip(0, 255).astype(np.uint8), objects


def write_split(out: Path, split: str, pictures: int, size: int, seed: int) -> int:
    """Write the pictures and the annotation file of one split.

    Args:
        out (Path): Root folder of the set.
        split (str): ``'train'`` or ``'val'``.
        pictures (int): Number of pictures.
        size (int): Width and height in pixels.
        seed (int): Seed of the set.

    Returns:
        int: Number of shapes drawn.
    """
    path = out / 'annotations' / f'instances_{split}.json'
    path.unlink(missing_ok=True)
    (out / split).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number in tqdm(range(pictures), desc=f'{out / split}', unit='picture'):
        rng = np.random.default_rng([seed, ('train', 'val').index(split), number])
        picture, objects = draw(rng, size)
        name = f'{number:06d}.png'
        if not cv2.imwrite(str(out / split / name), picture):
            sys.exit(f'error: cannot write {out / split / name}')
        images.append(dict(id=number, file_name=name, width=size, height=size))
        for category, corners in objects:
            low, high = corners.min(0), corners.max(0)
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number,
                    category_id=category + 1,
                    segmentation=[corners.round(2).ravel().tolist()],
                    bbox=np.concatenate([low, high - low]).round(2).tolist(),
                    area=round(float(cv2.contourArea(corners.astype(np.float32))), 2),
                    iscrowd=0,
                )
            )
    content = dict(
        info=dict(description='mmdet_largebatch shapes', seed=seed, pictures=pictures, size=size),
        images=images,
        annotations=annotations,
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return len(annotations)


def up_to_date(out: Path, split: str, pictures: int, size: int, seed: int) -> bool:
    """Return True if the split already stands there as it would be written.

    The annotation file is written last, so one that fits means that its pictures stand.

    Args:
        out (Path): Root folder of the set.
        split (str): ``'train'`` or ``'val'``.
        pictures (int): Number of pictures.
        size (int): Width and height in pixels.
        seed (int): Seed of the set.

    Returns:
        bool: True if nothing is to be done.
    """
    try:
        info = json.loads((out / 'annotations' / f'instances_{split}.json').read_text())['info']
    except (OSError, ValueError, KeyError, TypeError):
        return False
    asked = dict(seed=seed, pictures=pictures, size=size)
    return {key: info.get(key) for key in asked} == asked


def positive(text: str) -> int:
    """A command-line value that must be a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f'{value} is below 1')
    return value


def main() -> None:
    """Read the command line and write what is not there yet."""
    parser = argparse.ArgumentParser(description='Write a small COCO-format set of shapes.')
    parser.add_argument('--out', type=Path, default=Path('data/shapes'), help='root folder')
    parser.add_argument('--train', type=positive, default=512, help='pictures to train on')
    parser.add_argument('--val', type=positive, default=128, help='pictures to evaluate on')
    parser.add_argument('--size', type=positive, default=128, help='width and height, pixels')
    parser.add_argument('--seed', type=int, default=0, help='seed of the set, >= 0')
    args = parser.parse_args()
    if args.size < 32:
        parser.error(f'--size {args.size}: must be >= 32, or the shapes are a few pixels')
    if args.seed < 0:
        parser.error(f'--seed {args.seed}: must be >= 0')
    for split in ('train', 'val'):
        wanted = (args.out, split, getattr(args, split), args.size, args.seed)
        if up_to_date(*wanted):
            print(f'{args.out / split}: {wanted[2]} pictures are there')
        else:
            print(f'{args.out / split}: {write_split(*wanted)} shapes drawn')


if __name__ == '__main__':
    main()
