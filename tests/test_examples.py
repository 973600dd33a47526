"""The examples in docstrings run and print what they say; the pages list each option of a tool."""

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
from helpers.common import ROOT
from mmengine.logging import MMLogger

import mmdet_largebatch

PACKAGE = Path(mmdet_largebatch.__file__).parent
MODULES = [
    '.'.join(file.relative_to(PACKAGE.parent).with_suffix('').parts)
    for file in sorted(PACKAGE.rglob('*.py'))
    if '>>>' in file.read_text()
]
CLASSES = [
    kind
    for kind in (getattr(mmdet_largebatch, name) for name in mmdet_largebatch.__all__)
    if inspect.isclass(kind) and not issubclass(kind, Exception)
]
TOOLS = (
    *('train', 'test', 'carry_recipe', 'plan', 'sweep', 'branch', 'results'),
    *('draw_detections', 'make_shapes'),
)


@pytest.mark.parametrize('name', MODULES)
def test_examples_print_what_they_say(name):
    # A logger that is made within an example would print among its results.
    MMLogger.get_current_instance()
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize('kind', CLASSES, ids=lambda kind: kind.__name__)
def test_each_public_class_has_an_example(kind):
    assert doctest.DocTestParser().get_examples(kind.__doc__)


@pytest.mark.parametrize('name', TOOLS)
def test_the_pages_list_the_options_that_help_prints(name, tool):
    printed = re.findall(r'^  (?:-h, )?(--[\w-]+)', tool(f'{name}.py', '--help').stdout, re.M)
    names = ('tools', 'tuning', 'branches')
    pages = ''.join((ROOT / f'docs/{page}.md').read_text() for page in names)
    table = pages.split(f'Options of `tools/{name}.py`:\n\n')[1].split('\n\n')[0]
    listed = re.findall(r'`(--[\w-]+)', ''.join(re.findall(r'^\| (.*?) \|', table, re.M)))
    assert sorted(printed) == sorted([*listed, '--help'])
