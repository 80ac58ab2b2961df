"""The examples in the docstrings."""

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import mrfq
import mrfq.solvers

#: modules that need a package which comes with torch for GPUs alone
NEEDS = {"mrfq.problems.layer_triton": "triton"}


def modules():
    names = sorted(info.name for info in pkgutil.walk_packages(mrfq.__path__, "mrfq."))
    return [name for name in names if importlib.util.find_spec(NEEDS.get(name, "mrfq"))]


@pytest.mark.parametrize("name", modules())
def test_examples_do_what_they_say(name):
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_there_are_examples():
    found = sum(len(doctest.DocTestFinder().find(importlib.import_module(name))) for name in modules())
    assert found > 100
