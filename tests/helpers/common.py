"""Shared constants and options of the tests."""

import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The package and these helpers, for processes that tests start.
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])


def unpadded(table: str) -> str:
    """A Markdown table with one space around each cell."""
    return re.sub(' +', ' ', table)


def without_scope(node):
    """A config without the `_scope_` that MMEngine puts into what it inherits across packages."""
    if isinstance(node, dict):
        return {key: without_scope(node[key]) for key in node if key != '_scope_'}
    return [without_scope(item) for item in node] if isinstance(node, (list, tuple)) else node


def leave_config_text() -> None:
    """Leave out the layout of configs' text, most of the start of a short training.

    `Config.pretty_text` is valid Python without it. Trainings that are commands keep it.
    """
    from yapf.yapflib import yapf_api

    yapf_api.FormatCode = lambda text, **kwargs: (text, False)


def data_options(root: Path) -> list[str]:
    """`--cfg-options` that put another folder in the place of a shapes recipe's data."""
    options = [
        f'{split}_dataloader.dataset.data_root={root}/' for split in ('train', 'val', 'test')
    ]
    annotations = root / 'annotations/instances_val.json'
    return options + [f'{split}_evaluator.ann_file={annotations}' for split in ('val', 'test')]


# Where two proposals score nearly the same, the last bit of a float32 decides which comes first. So
# that runs can be compared by sums alone, the RoI head gets every proposal, and takes every one: a
# picture of 64 x 64 has 682 anchors of two shapes, and an IoU is never above 1.
EVERY_PROPOSAL = {
    'train_dataloader.dataset.pipeline.2.scale': (64, 64),
    'model.rpn_head.anchor_generator.ratios': [0.5, 2.0],
    'model.train_cfg.rpn.sampler.num': 16,
    'model.train_cfg.rpn_proposal.nms_pre': 1000,
    'model.train_cfg.rpn_proposal.max_per_img': 1000,
    'model.train_cfg.rpn_proposal.nms.iou_threshold': 1.0,
    'model.train_cfg.rcnn.sampler.num': 4000,
}

# 20 pictures of 64 x 64 in updates of 2, one of which is trained.
CUT = [
    'train_dataloader.dataset.pipeline.2.scale=(64,64)',
    'val_dataloader.dataset.pipeline.1.scale=(64,64)',
    'train_dataloader.batch_size=1',
    'train_cfg.global_batch_size=2',
    'train_cfg.max_epochs=200',
    'train_cfg.max_updates=1',
    *(f'{split}_dataloader.num_workers=0' for split in ('train', 'val')),
    *(f'{split}_dataloader.persistent_workers=False' for split in ('train', 'val')),
]
