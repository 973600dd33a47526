"""The examples in docstrings run, and print what they say."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest
from helpers.common import ROOT
from mmengine.logging import MMLogger

import mmdet_largebatch

FILES = sorted(Path(mmdet_largebatch.__file__).parent.rglob('*.py'))
MODULES = [
    '.'.join(file.relative_to(ROOT).with_suffix('').parts)
    for file in FILES
    if '>>>' in file.read_text() and file.name != '__init__.py'
]
CLASSES = [
    kind
    for kind in (getattr(mmdet_largebatch, name) for name in mmdet_largebatch.__all__)
    if inspect.isclass(kind) and not issubclass(kind, Exception)
]


@pytest.mark.parametrize('name', MODULES)
def test_examples_print_what_they_say(name):
    # A logger that is made within an example would print among its results.
    MMLogger.get_current_instance()
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize('kind', CLASSES, ids=lambda kind: kind.__name__)
def test_each_public_class_has_an_example(kind):
    assert doctest.DocTestParser().get_examples(kind.__doc__)
