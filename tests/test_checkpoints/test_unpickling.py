"""Types that a checkpoint may hold; no other function is called."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.malicious import Calls, commands, places, save
from mmdet.datasets import CocoDataset
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import get_torch_safe_globals
from numpy._core.multiarray import _reconstruct

from mmdet_largebatch.checkpoints import (
    checkpoint_defect,
    load_from_local,
    newest_checkpoint,
    trust_checkpoints,
)
from mmdet_largebatch.checkpoints.unpickling import UnsafeCheckpoint
from mmdet_largebatch.errors import SettingError

HARMFUL = [name for name in commands('x') if name not in ('state', 'getattr of the class')]
TRICKS = ['state', 'getattr of the class']


def assert_refused(path, name):
    with pytest.raises(UnsafeCheckpoint) as error:
        load_from_local(str(path))
    line = str(error.value)
    assert line.startswith(f'checkpoint={path}: ') and '\n' not in line
    assert name in line and '--trust-checkpoint' in line
    assert name in checkpoint_defect(path)


@pytest.mark.parametrize('old_format', [False, True])
@pytest.mark.parametrize('name', [*HARMFUL, *TRICKS])
def test_a_command_is_refused_by_name_and_never_runs(tmp_path, name, old_format):
    marker = tmp_path / 'ran'
    command, words = commands(marker)[name]
    path = save(tmp_path / 'epoch_1.pth', command, _use_new_zipfile_serialization=not old_format)
    assert_refused(path, words)
    assert not marker.exists()


@pytest.mark.parametrize('name', ['os.system', 'subprocess', 'eval', 'exec', 'open'])
def test_what_the_commands_do_where_they_are_not_refused(tmp_path, name):
    marker = tmp_path / 'ran'
    path = save(tmp_path / 'epoch_1.pth', commands(marker)[name][0])
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize('place', places(None))
def test_a_command_in_any_part_is_refused(tmp_path, place):
    marker = tmp_path / 'ran'
    command, words = commands(marker)['os.system']
    assert_refused(save(tmp_path / 'epoch_1.pth', command, place), words)
    assert not marker.exists()


def test_the_names_that_mmengine_allows_are_read_alike(tmp_path):
    """MMEngine's loaders of object stores allow NumPy's own classes, and the builtin getattr."""
    allowed = get_torch_safe_globals()
    good = tmp_path / 'good.pth'
    torch.save(dict(state_dict={}, meta=dict(x=np.arange(3))), good)
    command, words = commands(tmp_path)['getattr of the class']
    bad = save(tmp_path / 'bad.pth', command)
    with torch.serialization.safe_globals(allowed):
        assert load_from_local(str(good))['meta']['x'].tolist() == [0, 1, 2]
        assert_refused(bad, words)
        assert set(allowed) <= set(torch.serialization.get_safe_globals())


DTYPE = (3, '|', None, None, None, -1, -1, 63)
TAMPERED = {
    'array of objects': lambda: np.array([{}], dtype=object),
    'record': lambda: np.zeros(1, dtype=[('a', 'f4')]),
    'dtype of another class': lambda: Calls(np.dtype, 'O8', False, True, state=DTYPE),
    'dtype with fields': lambda: Calls(
        np.dtype, 'f8', False, True, state=(3, '<', None, ('a',), {}, -1, -1, 63)
    ),
    'another kind of array': lambda: Calls(_reconstruct, np.matrix, (0,), b'b'),
    'a dtype that is none': lambda: Calls(
        _reconstruct, np.ndarray, (0,), b'b', state=(1, (1,), 'f8', False, b'12345678')
    ),
}


@pytest.mark.parametrize('make', TAMPERED.values(), ids=TAMPERED)
def test_arrays_that_are_no_plain_numbers_are_refused(tmp_path, make):
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict={}, meta=dict(note=make())), path)
    assert_refused(path, 'numpy')


def test_what_a_training_saves_is_loaded_as_pickle_loads_it(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    arrays = [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype='>f4'),
        np.array([True, False]),
        np.array(['circle', 'square']),
        np.float64(0.25),
        np.int64(3),
        np.zeros((0, 2), np.float16),
    ]
    history = HistoryBuffer([3.0, 2.0], [1, 1])
    scheduler = dict(
        one=OneCycleParamScheduler._annealing_cos, two=OneCycleParamScheduler._annealing_linear
    )
    content = dict(
        state_dict=dict(w=torch.arange(3.0)),
        meta=dict(arrays=arrays, pair=(arrays[0], arrays[0].dtype)),
        message_hub=dict(log_scalars=dict(loss=history)),
        param_schedulers=[scheduler],
    )
    torch.save(content, path)
    loaded, pickled = load_from_local(str(path)), torch.load(path, weights_only=False)
    for x, y in zip(loaded['meta']['arrays'], pickled['meta']['arrays'], strict=True):
        assert type(x) is type(y) and x.dtype == y.dtype and np.array_equal(x, y)
        assert x.flags.f_contiguous == y.flags.f_contiguous
    assert loaded['meta']['pair'][1] == np.dtype('int64')
    assert loaded['param_schedulers'] == pickled['param_schedulers'] == [scheduler]
    buffer = loaded['message_hub']['log_scalars']['loss']
    buffer.update(4.0)
    assert type(buffer) is HistoryBuffer and type(buffer.data[0]) is np.ndarray
    assert buffer.statistics('mean') == 3.0 and buffer.statistics('current') == 4.0
    torch.save(loaded, path)
    assert checkpoint_defect(path) is None


def test_nested_metainfo_of_a_config_is_loaded_as_pickle_loads_it(tmp_path):
    """mmdet puts it into each checkpoint, nested dicts as ConfigDict."""
    text = "metainfo = dict(classes=('a',), notes=dict(source='x', parts=[dict(n=1)]))"
    metainfo = Config.fromstring(text, '.py').metainfo
    saved = CocoDataset(metainfo=metainfo, ann_file='', lazy_init=True).metainfo
    path = tmp_path / 'epoch_1.pth'
    marks = ConfigDict(sizes=np.arange(3))
    content = dict(state_dict={}, meta=dict(dataset_meta=dict(saved, marks=marks)))
    torch.save(content, path)
    loaded = load_from_local(str(path))['meta']['dataset_meta']
    notes = torch.load(path, weights_only=False)['meta']['dataset_meta']['notes']
    assert type(loaded['notes']) is type(loaded['notes'].parts[0]) is type(notes) is ConfigDict
    assert loaded['notes'] == notes and loaded['marks'].sizes.tolist() == [0, 1, 2]
    assert checkpoint_defect(path) is None


def test_the_search_for_the_newest_passes_a_command_over(tmp_path):
    marker = tmp_path / 'ran'
    good = tmp_path / 'epoch_1.pth'
    torch.save(dict(meta=dict(iter=1, saved_at=1), message_hub={}, state_dict={}), good)
    bad = save(tmp_path / 'epoch_2.pth', commands(marker)['os.system'][0])
    path, passed_over = newest_checkpoint([tmp_path])
    assert path == str(good) and not marker.exists()
    assert len(passed_over) == 1 and passed_over[0].startswith(f'{bad}: ')
    assert 'posix.system' in passed_over[0]


def test_the_switch_trusts(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict={}, meta=dict(note=Path('notes'))), path)
    assert_refused(path, 'pathlib')
    trust_checkpoints(True)
    try:
        assert load_from_local(str(path))['meta']['note'] == Path('notes')
        assert checkpoint_defect(path) is None
    finally:
        trust_checkpoints(False)
    assert_refused(path, 'pathlib')


def test_what_is_downloaded_is_read_alike(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    folder, marker = tmp_path / 'served', tmp_path / 'ran'
    folder.mkdir()
    save(folder / 'bad.pth', commands(marker)['os.system'][0])
    torch.save(dict(w=torch.ones(2), h=HistoryBuffer([1.0], [1])), folder / 'good.pth')
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    load = torch.load
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}'
        loaded = CheckpointLoader.load_checkpoint(f'{address}/good.pth')
        with pytest.raises(SettingError, match='posix.system'):
            CheckpointLoader.load_checkpoint(f'{address}/bad.pth')
        server.shutdown()
    assert loaded['w'].tolist() == [1.0, 1.0] and loaded['h'].mean() == 1.0
    assert not marker.exists() and torch.load is load


@pytest.mark.parametrize('legacy', [False, True])
def test_a_config_in_the_meta_is_not_run_on_resume(tmp_path, legacy):
    """MMEngine's `Runner.resume` reads `meta['config']` as a config, and a config is a program."""
    marker = tmp_path / 'ran'
    program = f'import pathlib\npathlib.Path({str(marker)!r}).touch()\n'
    path = tmp_path / 'epoch_1.pth'
    content = dict(meta=dict(config=program, epoch=1, iter=4), state_dict={})
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    loaded = CheckpointLoader.load_checkpoint(str(path))
    assert loaded == dict(meta=dict(epoch=1, iter=4), state_dict={})
    assert not marker.exists()
    # Without the protection, the command runs.
    Config.fromstring(program, file_format='.py')
    assert marker.exists()


def weights():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    return model.half().state_dict()


# The keys and types that MMCV's and MMEngine's `save_checkpoint` give a published file, by version
# of MMDetection; the files themselves are not here.
ZOO = {
    '1.x and 2.x': dict(
        meta=dict(
            mmdet_version='2.3.0+b2a3c1b',
            config='model = dict(type="MaskRCNN")\n',
            env_info='sys.platform: linux\nGPU 0: Tesla V100',
            CLASSES=('person', 'bicycle'),
            PALETTE=[(220, 20, 60), (119, 11, 32)],
            time='Thu Aug  6 21:05:19 2020',
            seed=None,
            exp_name='mask_rcnn_r50_fpn_1x_coco.py',
            hook_msgs=dict(),
            epoch=12,
            iter=87960,
        ),
    ),
    '3.x': dict(
        meta=dict(
            cfg='model = dict(type="MaskRCNN")\n',
            dataset_meta=dict(CLASSES=('person', 'bicycle'), PALETTE=[(220, 20, 60)]),
            experiment_name='mask-rcnn_r50_fpn_1x_coco_20220813_082153',
            mmengine_version='0.1.0',
            seed=1234,
            time='20220813_162153',
            epoch=12,
            iter=87960,
        ),
        message_hub=dict(
            log_scalars={'train/loss': HistoryBuffer([0.5, np.float32(0.25)], [1, 1])},
            runtime_info=dict(iter=87960, max_iters=87960),
            resumed_keys={'train/loss': True},
        ),
    ),
}


@pytest.mark.parametrize('old_format', [False, True])
@pytest.mark.parametrize('version', ZOO)
def test_the_model_zoos_format_is_loaded(tmp_path, version, old_format):
    """MMDetection 1.x and 2.x published files of the format before torch 1.6."""
    path = tmp_path / 'published-12345678.pth'
    content = dict(ZOO[version], state_dict=weights())
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    loaded, wanted = load_from_local(str(path)), torch.load(path, weights_only=False)
    wanted['meta'].pop('config', None)
    assert loaded['meta'] == wanted['meta'] and list(loaded) == list(wanted)
    assert all(x.equal(wanted['state_dict'][name]) for name, x in loaded['state_dict'].items())
    for name, buffer in loaded.get('message_hub', {}).get('log_scalars', {}).items():
        other = wanted['message_hub']['log_scalars'][name]
        assert all(np.array_equal(a, b) for a, b in zip(buffer.data, other.data, strict=True))
        assert buffer.mean() == other.mean() == 0.375
