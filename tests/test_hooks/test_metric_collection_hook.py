"""Evaluations on several machines whose working directories are not shared."""

import pickle

import pytest
from helpers import apart_folders
from helpers.forked import run_apart
from helpers.runs import GLOBAL_BATCH, Run, merged, write_config
from helpers.same_bits import assert_same_bits

SMALL = dict(
    train_cfg=dict(max_epochs=1),
    train_dataloader=dict(batch_size=2),
    val_dataloader=dict(batch_size=1),
    test_dataloader=dict(batch_size=1),
)
LINE = "metrics collect with collect_device='gpu'"


@pytest.mark.multiprocess
def test_training_and_test_collect_what_one_rank_computes(tool, shapes, monkeypatch, tmp_path):
    monkeypatch.setenv('SHAPES', str(shapes))
    config = str(write_config(tmp_path, merged(GLOBAL_BATCH, SMALL)))
    run = Run(tmp_path / 'work')
    words = ('train.py', config, '--work-dir', str(run.folder))
    trained = run_apart(apart_folders.main, tmp_path / 'train', shapes, *words)
    assert trained.returncode == 0, trained.stdout[-3000:]
    assert trained.stdout.count(LINE) == 1
    assert 'coco/bbox_mAP' in run.logged['val', 1]

    found, expected = tmp_path / 'apart.pkl', tmp_path / 'alone.pkl'
    words = ('test.py', config, str(run.folder / 'epoch_1.pth'), '--work-dir', str(run.folder))
    words_out = (*words, '--out', str(found))
    apart = run_apart(apart_folders.main, tmp_path / 'test', shapes, *words_out)
    assert apart.returncode == 0 and LINE in apart.stdout, apart.stdout[-3000:]
    tool(*words, '--out', expected).check_returncode()
    assert_same_bits(*(pickle.loads(path.read_bytes()) for path in (found, expected)))
