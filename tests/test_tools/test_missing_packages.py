"""Packages that a config needs and that are not installed."""

from importlib.util import find_spec

import pytest
from helpers.common import ROOT, data_options

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
LOADS = "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile', {})]))"


@pytest.mark.parametrize(
    ('package', 'setting', 'line'),
    [
        (
            'wandb',
            "visualizer = dict(vis_backends=[dict(type='WandbVisBackend')])",
            'Please run "pip install wandb" to install wandb.',
        ),
        (
            'memory_profiler',
            "custom_hooks = [dict(type='MemoryProfilerHook')]",
            'MemoryProfilerHook: memory_profiler is not installed, please install it by: pip',
        ),
        (
            'albumentations',
            "train_dataloader = dict(dataset=dict(pipeline=[dict(type='Albu', transforms=[])]))",
            'Albu: albumentations is not installed.',
        ),
        (
            'apex',
            "optim_wrapper = dict(type='ApexOptimWrapper')",
            'ApexOptimWrapper: Apex is not installed. Please check https://github.com/NVIDIA/apex',
        ),
        (
            'turbojpeg',
            LOADS.format("imdecode_backend='turbojpeg'"),
            "Invalid LoadImageFromFile.imdecode_backend='turbojpeg'. Must be one of 'cv2', ",
        ),
        # In a data worker.
        pytest.param(
            'petrel_client',
            LOADS.format("backend_args=dict(backend='petrel')"),
            'Please install petrel_client to enable PetrelBackend.',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_package_that_is_not_installed(tool, shapes, tmp_path, package, setting, line):
    """In the words of the library that asks for it, with the class of the config."""
    if find_spec(package):
        pytest.skip(f'{package} is installed')
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = '{ROOT / RECIPE}'\n{setting}\n")
    options = ('--cfg-options', *data_options(shapes), 'default_hooks.lr.warmup_iters=1')
    done = tool('train.py', config, '--work-dir', tmp_path / 'work', *options)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f'error: {line}')
    assert done.stderr.count('error: ') == 1
