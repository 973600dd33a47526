"""Evaluations on several machines whose working directories are not shared."""

import pytest
from helpers import apart_folders
from helpers.forked import run_apart
from helpers.runs import GLOBAL_BATCH, Run, merged, write_config

SMALL = dict(
    train_cfg=dict(max_epochs=1),
    train_dataloader=dict(batch_size=2),
    val_dataloader=dict(batch_size=1),
    test_dataloader=dict(batch_size=1),
)
LINE = "metrics collect with collect_device='gpu'"


@pytest.mark.multiprocess
def test_an_evaluation_without_a_shared_folder(shapes, monkeypatch, tmp_path):
    monkeypatch.setenv('SHAPES', str(shapes))
    config = str(write_config(tmp_path, merged(GLOBAL_BATCH, SMALL)))
    run = Run(tmp_path / 'work')
    words = ('train.py', config, '--work-dir', str(run.folder))
    trained = run_apart(apart_folders.main, tmp_path / 'train', shapes, *words)
    assert trained.returncode == 0, trained.stdout[-3000:]
    assert trained.stdout.count(LINE) == 1
    assert 'coco/bbox_mAP' in run.logged['val', 1]
