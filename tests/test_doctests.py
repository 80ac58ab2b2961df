"""The examples in the docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import mrfq
import mrfq.solvers


def modules():
    return sorted(info.name for info in pkgutil.walk_packages(mrfq.__path__, "mrfq."))


@pytest.mark.parametrize("name", modules())
def test_examples_do_what_they_say(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_there_are_examples():
    found = sum(len(doctest.DocTestFinder().find(importlib.import_module(name))) for name in modules())
    assert found > 100
