"""A pure-Python config, whose types are classes, in every tool."""

import json

import pytest
from helpers.common import ROOT, data_options, unpadded
from mmengine.config import Config

from mmdet_largebatch.utils.config_text import config_text

pytestmark = pytest.mark.slow

RECIPE = 'tests/helpers/pure_python/lamb.py'


def test_train_resume_test_plan_results_draw(tool, shapes, tmp_path):
    work, options = tmp_path / 'work', ['--cfg-options', *data_options(shapes)]
    cut = tool('train.py', RECIPE, '--work-dir', work, *options, 'train_cfg.max_updates=3')
    assert cut.returncode == 0 and 'global batch 8, 3 updates an epoch' in cut.stdout
    done = tool('train.py', RECIPE, '--work-dir', work, '--resume', *options)
    assert done.returncode == 0 and (work / 'epoch_2.pth').is_file()

    words = ('--work-dir', tmp_path / 'test', '--tta', *options)
    done = tool('test.py', RECIPE, work / 'epoch_2.pth', *words)
    assert done.returncode == 0 and 'coco/bbox_mAP: ' in done.stdout

    done = tool('plan.py', RECIPE, '--images', 100, '--gpus', 2, '--json')
    plan = json.loads(done.stdout)
    assert (plan['optimizer'], plan['updates'], plan['global_batch']) == ('LAMB', 26, 8)

    tool('results.py', work, '--out', tmp_path / 'results')
    lines = unpadded((tmp_path / 'results/results.md').read_text()).splitlines()
    (row,) = [line for line in lines if '| LAMB | 8 |' in line]
    assert row.endswith('done |')

    out = tmp_path / 'drawn.png'
    words = ('--pictures', 2, '--score', 0, '--out', out, *options)
    assert tool('draw_detections.py', RECIPE, work / 'epoch_2.pth', *words).returncode == 0
    assert out.read_bytes().startswith(b'\x89PNG')


def test_sweep_and_the_same_again(tool, shapes, tmp_path):
    """The models of a sweep are built from the configs that it wrote."""
    words = ('sweep.py', RECIPE, '--lr', 0.02, '--warmup-iters', 1)
    words += ('--updates', 2, '--work-dir', tmp_path, '--cfg-options', *data_options(shapes))
    first, again = tool(*words), tool(*words)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert first.stdout == again.stdout
    assert '| LAMB | 8 | 1 | 0.02 | 1 |' in unpadded(first.stdout)
    assert len(list(tmp_path.glob('lr*/2*/vis_data'))) == 1


def test_written_config_reads_back(tmp_path):
    cfg = Config.fromfile(ROOT / RECIPE)
    cfg.optim_wrapper.optimizer.lr = 0.5
    (tmp_path / 'written.py').write_text(config_text(cfg))
    read = Config.fromfile(tmp_path / 'written.py')
    assert read.to_dict() == cfg.to_dict()
    assert read.model.roi_head.bbox_roi_extractor.roi_layer.type.__name__ == 'RoIAlign'
