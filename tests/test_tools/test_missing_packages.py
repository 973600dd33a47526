"""Packages that a config needs and that are not installed."""

from importlib.util import find_spec

import pytest
from helpers.common import ROOT
from helpers.tools import assert_one_line

RECIPE = 'configs/shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
NAMES = ('albumentations', 'apex', 'memory_profiler', 'petrel_client', 'turbojpeg', 'wandb')
# At collection: another test makes a package named apex.
INSTALLED = [name for name in NAMES if find_spec(name)]
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
def test_a_package_that_is_not_installed(train, tmp_path, package, setting, line):
    """In the words of the library that asks for it, with the class of the config."""
    if package in INSTALLED:
        pytest.skip(f'{package} is installed')
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = '{ROOT / RECIPE}'\n{setting}\n")
    done = train('default_hooks.lr.warmup_iters=1', config=config)
    assert_one_line(done, f'error: {line}')
