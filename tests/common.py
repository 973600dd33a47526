"""What tests of several folders import."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def data_options(root: Path) -> list[str]:
    """`--cfg-options` that put another folder in the place of a shapes recipe's data."""
    options = [
        f'{split}_dataloader.dataset.data_root={root}/' for split in ('train', 'val', 'test')
    ]
    annotations = root / 'annotations/instances_val.json'
    return options + [f'{split}_evaluator.ann_file={annotations}' for split in ('val', 'test')]
