"""Packaging of mmdet_largebatch."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r"__version__ = '([^']+)'", (ROOT / 'mmdet_largebatch' / 'version.py').read_text()
).group(1)
# The tools of users; the others are of use in a clone alone.
TOOLS = [
    *('dist_*.sh', 'slurm*.sh', 'aws_spot_notice.sh', 'launch.py', 'train.py', 'test.py'),
    *('carry_recipe.py', 'plan.py', 'sweep.py', 'branch.py', 'results.py'),
    'draw_detections.py',
    'make_shapes.py',
]

setup(
    name='mmdet_largebatch',
    version=VERSION,
    description='Large-batch training for MMDetection: LARS, LAMB and the global batch',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='object detection, instance segmentation, large batch, LAMB, LARS, MMDetection',
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=['mmdet_largebatch', 'mmdet_largebatch.*']),
    # .mim holds links to the recipes and the tools, where openmim and MMEngine look for them.
    package_data={
        'mmdet_largebatch': [
            'py.typed',
            'results/public_coco.csv',
            '.mim/model-index.yml',
            '.mim/configs/*/*',
            *(f'.mim/tools/{name}' for name in TOOLS),
        ]
    },
    python_requires='>=3.10',
    # mmengine, mmcv and mmdet are extras: the forks and OpenMMLab's releases install the same
    # import names, so neither is forced on who has the other. apex is in neither
    # (docs/install.md).
    # pandas writes Markdown by tabulate.
    install_requires=['numpy', 'pandas>=2.1,<4.0', 'tabulate>=0.9', 'torch>=2.6', 'tqdm'],
    extras_require={
        'onedl': [
            'onedl-mmengine>=0.10.12,<1.0',
            'onedl-mmcv>=2.3.6,<3.0',
            'onedl-mmdetection>=3.5.1,<4.0',
            'pycocotools',
        ],
        'openmmlab': [
            'mmengine>=0.10.7,<1.0',
            'mmcv>=2.1.0,<2.2.0',
            'mmdet>=3.3.0,<4.0',
            'pycocotools',
        ],
        'tests': ['expecttest', 'hypothesis', 'pytest', 'pytest-xdist', 'ruff'],
    },
)
