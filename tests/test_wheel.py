"""The package in an environment of its own: from a wheel, without a clone, and editable."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from helpers.common import CUT, ROOT, data_options, unpadded

pytestmark = pytest.mark.slow

RECIPE = 'mmdet_largebatch::shapes/mask-rcnn_r18_fpn_2xb8-lamb-1x_shapes.py'
SOURCES = [
    *('configs', 'mmdet_largebatch', 'tools', 'LICENSE', 'README.md', 'model-index.yml'),
    *('pyproject.toml', 'setup.py'),
]
FOUND = "from importlib.util import find_spec; print(find_spec('mmdet_largebatch').origin)"


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """The sources alone; a build leaves its own files among them."""
    folder = tmp_path_factory.mktemp('clone')
    skip = shutil.ignore_patterns('__pycache__', '*.egg-info')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=skip)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture
def installed(clone, tmp_path):
    """Install into a new environment beside the stack, and run commands there in an empty folder.

    What pip and build call is called here: `pip install -e` would replace the package of the stack.
    """
    environment, empty = tmp_path / 'environment', tmp_path / 'empty'
    empty.mkdir()
    variables = {key: x for key, x in os.environ.items() if key != 'PYTHONPATH'}

    def run(*words, folder=empty):
        done = subprocess.run(
            [str(word) for word in words],
            cwd=folder,
            env=variables | dict(PATH=f'{environment}/bin:{variables["PATH"]}'),
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
        return done.stdout

    def install(kind):
        build = f'from setuptools import build_meta; build_meta.build_{kind}({str(tmp_path)!r})'
        run(sys.executable, '-c', build, folder=clone)
        (wheel,) = tmp_path.glob('*.whl')
        venv.create(environment)
        pip = (sys.executable, '-m', 'pip', '--python', environment / 'bin/python')
        run(*pip, 'install', '--no-deps', '--no-index', '--quiet', wheel)
        # After pip, which must see no other package of this name. The stack's own .pth files, thus
        # its editable installs, do not count.
        site = next(environment.glob('lib/python*/site-packages'))
        (site / 'stack.pth').write_text(sysconfig.get_path('purelib') + '\n')
        return run

    install.empty, install.environment = empty, environment
    return install


def files(folder):
    return {str(x.relative_to(folder)) for x in folder.rglob('*.*') if 'pycache' not in str(x)}


def wrappers(folder):
    return {x.name for x in folder.glob('*.py') if 'mmdet_largebatch.cli.' in x.read_text()}


def test_a_wheel_trains_plans_sweeps_and_tabulates(installed, shapes):
    run = installed('wheel')
    package = Path(run('python', '-c', FOUND)).parent
    assert package.is_relative_to(installed.environment)
    mim = package / '.mim'
    assert files(mim / 'configs') == files(ROOT / 'configs')
    assert wrappers(mim / 'tools') == wrappers(ROOT / 'tools')
    (installed.empty / 'mine.py').write_text(f'_base_ = {RECIPE!r}\n')
    options = ['--cfg-options', *data_options(shapes), *CUT]

    train = ('bash', f'{mim}/tools/dist_train.sh', RECIPE, 1, '--work-dir', 'work/lamb')
    run(*train, *options, 'train_cfg.max_updates=2')
    assert (installed.empty / 'work/lamb/last_checkpoint').exists()
    plan = run('python', '-m', 'mmdet_largebatch.cli.plan', RECIPE, '--images', 512)
    assert '\nglobal batch     16 images: 2 micro-batches of 8, 1 on each rank\n' in plan
    sweep = ('python', '-m', 'mmdet_largebatch.cli.sweep', 'mine.py', '--work-dir', 'work/sweep')
    table = unpadded(run(*sweep, '--lr', 0.02, '--updates', 2, *options)).splitlines()
    assert table[2].startswith('| lr0.02 | LAMB | 2 | 1 | 0.02 | 32 | 0.2 of 200 |')
    assert table[2].endswith('| done, cut at update 2 |')


def test_an_editable_install_finds_the_recipes_of_its_clone(installed, clone):
    run = installed('editable')
    assert run('python', '-c', FOUND).strip() == f'{clone}/mmdet_largebatch/__init__.py'
    lookup = (
        'import mmdet_largebatch; from mmengine.hub import get_config; '
        f'print(get_config({RECIPE!r}).filename)'
    )
    recipe = RECIPE.replace('::', '/.mim/configs/')
    assert run('python', '-c', lookup).splitlines()[-1] == f'{clone}/{recipe}'
