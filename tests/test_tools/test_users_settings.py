"""Users' settings: hooks removed, no data workers, pictures that cannot be decoded."""

import re

import pytest
from helpers.common import data_options

RECIPE = 'tests/helpers/pure_python/lamb.py'
NO_WORKERS = [f'{split}_dataloader.num_workers=0' for split in ('train', 'val', 'test')]


def error_lines(done):
    return [line for line in done.stderr.splitlines() if line.startswith('error: ')]


@pytest.fixture
def train(tool, shapes, tmp_path):
    def run(*options, root=shapes):
        options = (*data_options(root), *options)
        return tool('train.py', RECIPE, '--work-dir', tmp_path / 'w', '--cfg-options', *options)

    return run


@pytest.mark.slow
def test_hooks_taken_out_and_no_data_workers(train):
    names = ('lr', 'divergence', 'preemption', 'checkpoint', 'visualization', 'timer')
    done = train(*NO_WORKERS, *(f'default_hooks.{name}=None' for name in names))
    assert done.returncode == 0, done.stderr
    assert 'note: train_dataloader.num_workers=0 leaves out persistent_workers' in done.stderr
    # Neither a warmup nor a decay.
    rates = re.findall(r'Epoch\(train\).*?\blr: ([\d.e+-]+)', done.stdout)
    assert len(rates) == 6 and set(map(float, rates)) == {0.01}


@pytest.mark.parametrize(
    ('option', 'part'),
    [
        ('default_hooks.checkpoint=None', 'Invalid default_hooks.checkpoint.type='),
        ('default_hooks.param_scheduler=None', 'default_hooks.param_scheduler'),
        ('model.backbone.depth.x=1', '--cfg-options: cannot be merged'),
        ('val_dataloader=None', 'val_dataloader, val_cfg, and val_evaluator should be either'),
    ],
)
def test_what_cannot_be_taken_out_is_said(train, option, part):
    done = train(option)
    assert done.returncode == 2 and len(error_lines(done)) == 1
    assert part in error_lines(done)[0]


@pytest.mark.parametrize(
    ('module', 'content', 'message'),
    [
        (
            'wrong_import',
            'from mmdet.models import NoSuchThing\n',
            r"\(ImportError: cannot import name 'NoSuchThing' .*, at .*/wrong_import\.py:1\)\.$",
        ),
        (
            'wrong_name',
            'a = 1\na = b\n',
            r"\(NameError: name 'b' is not defined, at .*/wrong_name\.py:2\)\.$",
        ),
        (
            'wrong_package',
            'import no_such_package\n',
            r"\(ModuleNotFoundError: No module named 'no_such_package', at .*package\.py:1\)\.$",
        ),
        (
            'wrong_syntax',
            'a = (\n',
            r"\(SyntaxError: '\(' was never closed \(wrong_syntax\.py, line 1\)\)\.$",
        ),
        (
            'absent.part',
            None,
            r"\(ModuleNotFoundError: No module named 'absent'; it must be installed, "
            r'or PYTHONPATH have its folder\)',
        ),
    ],
)
def test_the_cause_and_the_place_of_an_error_in_custom_imports(
    tool, tmp_path, monkeypatch, module, content, message
):
    if content is not None:
        (tmp_path / f'{module}.py').write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / 'config.py'
    imports = dict(imports=[module], allow_failed_imports=False)
    config.write_text(f'custom_imports = {imports}\n')
    done = tool('train.py', config)
    assert done.returncode == 2
    (line,) = error_lines(done)
    assert re.search(message, line), line


@pytest.fixture
def broken(shapes, tmp_path):
    """Return a function that copies the data with one picture replaced."""

    def copy(split, content):
        root = tmp_path / 'data'
        root.mkdir()
        for name in ('annotations', *({'train', 'val'} - {split})):
            (root / name).symlink_to(shapes / name)
        (root / split).mkdir()
        first, *others = sorted((shapes / split).iterdir())
        for path in others:
            (root / split / path.name).symlink_to(path)
        if content is None:
            (root / split / first.name).mkdir()
        else:
            (root / split / first.name).write_bytes(content)
        return root, root / split / first.name

    return copy


@pytest.mark.parametrize(
    ('split', 'content', 'options'),
    [
        ('train', b'', NO_WORKERS),
        ('train', b'no picture', ()),
        ('val', b'no picture', ()),
        ('val', None, NO_WORKERS),
    ],
)
@pytest.mark.slow
def test_a_picture_that_cannot_be_read_is_named(train, broken, split, content, options):
    root, path = broken(split, content)
    done = train(*options, root=root)
    assert done.returncode == 2, done.stderr
    (line,) = error_lines(done)
    assert line.startswith(f'error: img_path={path}: ')
    # The evaluation follows the first epoch, whose checkpoint is saved.
    assert ('epoch_1.pth' in line) == (split == 'val')
    assert 'Traceback' not in done.stderr
