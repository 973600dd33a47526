"""The package as it is installed and imported."""

import re
import sys
from importlib.metadata import packages_distributions, requires, version
from importlib.util import find_spec

import pytest
from helpers.common import ROOT
from mmdet import registry as mmdet_registry
from mmdet.registry import (
    DATA_SAMPLERS,
    HOOKS,
    LOOPS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
)
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import Registry

import mmdet_largebatch

FORKS, OPENMMLAB = 'requirements.txt', 'requirements-openmmlab.txt'


@pytest.mark.parametrize(
    ('registry', 'name'),
    [
        (OPTIMIZERS, 'LAMB'),
        (OPTIMIZERS, 'LARS'),
        (HOOKS, 'WarmupStepLRHook'),
        (PARAM_SCHEDULERS, 'WarmupStepLR'),
        (LOOPS, 'GlobalBatchTrainLoop'),
        (DATA_SAMPLERS, 'GlobalBatchSampler'),
    ],
)
def test_registered_with_mmdet_and_not_above_it(registry, name):
    """MMEngine's root registry gets LAMB and LARS of its own where bitsandbytes is installed."""
    assert registry.module_dict[name].__module__.startswith('mmdet_largebatch.')
    assert registry.parent is None or name not in registry.parent.module_dict


def test_every_registered_class_is_imported_by_name():
    registries = [x for x in vars(mmdet_registry).values() if isinstance(x, Registry)]
    ours = {
        name: cls
        for registry in registries
        for name, cls in registry.module_dict.items()
        if cls.__module__.startswith('mmdet_largebatch.') and '.cli.' not in cls.__module__
    }
    assert len(ours) >= 11
    for name, cls in ours.items():
        assert getattr(mmdet_largebatch, name) is cls and name in mmdet_largebatch.__all__


@pytest.mark.slow
def test_the_index_has_every_recipe_with_what_its_config_says():
    index = load(ROOT / 'model-index.yml')['Import']
    assert index == sorted(str(x.relative_to(ROOT)) for x in ROOT.glob('configs/*/metafile.yml'))
    listed = []
    for path in index:
        content = load(ROOT / path)
        (collection,) = content['Collections']
        page = (ROOT / collection['README']).read_text()
        for model in content['Models']:
            config = ROOT / model['Config']
            listed.append(config)
            assert (model['Name'], model['In Collection']) == (config.stem, collection['Name'])
            assert f']({config.name})' in page
            cfg = Config.fromfile(config)
            assert model['Metadata']['Epochs'] == cfg.train_cfg.max_epochs
            technique = model['Metadata']['Training Techniques'][0]
            assert technique.split(' with ')[0] == cfg.optim_wrapper.optimizer.type
            for ap in (ap for x in model.get('Results', []) for ap in x['Metrics'].values()):
                assert f' {ap / 100:.3f} ' in row_of_results(config.stem.split('_')[3])
    assert sorted(listed) == sorted(ROOT.glob('configs/[!_]*/*.py'))


def test_no_two_models_or_collections_share_a_name():
    """`mim` finds a model by its name."""
    contents = [load(ROOT / path) for path in load(ROOT / 'model-index.yml')['Import']]
    for kind in ('Collections', 'Models'):
        names = [entry['Name'] for content in contents for entry in content[kind]]
        assert len(set(names)) == len(names) > 3


def row_of_results(recipe):
    lines = (ROOT / 'docs/results.md').read_text().splitlines()
    return next(line for line in lines if line.startswith(f'| `{recipe}`'))


def test_without_mmdet_one_line_says_what_to_install(command):
    """-S leaves out the installed packages, so that nothing of OpenMMLab's is there."""
    code = f'import sys; sys.path.insert(0, {str(ROOT)!r}); import mmdet_largebatch'
    done = command(sys.executable, '-S', '-c', code)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith('ImportError: mmdet_largebatch needs mmengine, mmcv, mmdet')
    assert '[onedl]' in line and '[openmmlab]' in line


def pins(file):
    lines = (ROOT / file).read_text().splitlines()
    return dict(line.split('==') for line in lines if line and not line.startswith('#'))


def test_neither_family_is_forced_and_apex_never_listed():
    plain = [r for r in requires('mmdet_largebatch') if 'extra ==' not in r]
    names = {re.split(r'[<>=!~]', r)[0] for r in plain}
    assert names == {'numpy', 'pandas', 'tabulate', 'torch', 'tqdm'}
    listed = [*requires('mmdet_largebatch'), *pins(FORKS), *pins(OPENMMLAB)]
    assert not [line for line in listed if line.strip().startswith('apex')]


def test_requirements_are_exact_and_what_is_installed():
    forks = 'onedl-mmengine' in packages_distributions()['mmengine']
    for name, pinned in pins(FORKS if forks else OPENMMLAB).items():
        # A build tag such as +cpu is not part of the pin.
        assert version(name).split('+')[0] == pinned, name


def test_both_families_are_tested_with_the_same_versions_of_all_else():
    forks, openmmlab = pins(FORKS), pins(OPENMMLAB)
    assert forks.keys() - openmmlab.keys() == {
        'onedl-mmengine',
        'onedl-mmcv',
        'onedl-mmdetection',
        'codespell',
        'mypy',
        'ruff',
    }
    assert openmmlab.keys() - forks.keys() == {'mmengine', 'mmcv', 'mmdet'}
    assert {name: forks[name] for name in forks.keys() & openmmlab.keys()} == {
        name: openmmlab[name] for name in forks.keys() & openmmlab.keys()
    }


def test_version_is_that_of_the_metadata():
    assert version('mmdet_largebatch') == mmdet_largebatch.__version__
    assert find_spec('mmdet_largebatch').origin == str(ROOT / 'mmdet_largebatch/__init__.py')


@pytest.mark.slow
def test_the_journeys_are_as_long_as_the_table_says(command):
    """The counts are those of a run; CONTRIBUTING.md has them by hand."""
    done = command(sys.executable, '-m', 'helpers.hops', PYTHONPATH=f'{ROOT}:{ROOT / "tests"}')
    counts = re.findall(r'^(\w.*): (\d+) functions in (\d+) files$', done.stdout, re.MULTILINE)
    assert len(counts) == 4, done.stderr
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    for journey, functions, files in counts:
        row = next(line for line in text.splitlines() if line.startswith(f'| {journey} |'))
        assert row.endswith(f'| {functions} in {files} files |')
