"""The code on the documentation pages and in README.md runs as printed, and what they name exists."""

import doctest
import io
import re
import shlex
import subprocess
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import mrfq.solvers
from mrfq import registry
from mrfq.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^(`{3,}|:{3,})(\w+)[^\n]*\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
#: pages whose commands run as printed, in order with their Python
SESSIONS = {
    "README.md": ("mrfq generate", "mrfq solve"),
    "solve.md": ("mrfq", "echo", "cat"),
    "files.md": ("mrfq", "printf"),
    "quantize.md": (
        "mrfq train --model lenet300 --dataset digits",
        "mrfq quantize --model lenet300",
        "mrfq quantize --resume --out ternary",
    ),
    "train.md": (
        "mrfq train --model lenet300 --dataset digits",
        "mrfq train --resume --out digits",
        "mrfq inspect digits",
    ),
}


def blocks(page, *languages):
    """Return the fenced blocks in some languages, as (language, first line, code)."""
    text = page.read_text("utf-8")
    return [
        (fence[2], text.count("\n", 0, fence.start(3)), fence[3])
        for fence in FENCE.finditer(text)
        if fence[2] in languages
    ]


def run(page, namespace):
    """Run the blocks of a page in order in one namespace; `pycon` blocks must print what is printed."""
    for language, line, code in blocks(page, "python", "pycon", "console"):
        if language == "console":
            run_session(page, line, code)
        elif language == "python":
            exec(compile("\n" * line + code, str(page), "exec"), namespace)
        else:
            test = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), line)
            test.globs = namespace
            output = []
            failed = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=output.append, clear_globs=False).failed
            assert not failed, "".join(output)


def run_session(page, line, text):
    """Run the commands of a block, if the page's are run, and compare what they print where the block shows it."""
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n?)*)", text, re.MULTILINE)
    if not all(command.startswith(SESSIONS.get(page.name, "#")) for command, _ in commands):
        return
    for command, printed in commands:
        found = run_command(command)
        if printed.strip():
            same = doctest.OutputChecker().check_output(printed.strip(), found.strip(), OPTIONS)
            assert same, f"{page.name}, block at line {line}: $ {command}\n{found}"


def run_command(command):
    """Return what a command prints."""
    words = shlex.split(command, comments=True)
    if words[0] != "mrfq":
        return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed), pytest.raises(SystemExit):
        main(words[1:])
    return printed.getvalue()


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python", "pycon")], ids=lambda p: p.name)
def test_the_code_of_a_page_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    with torch.random.fork_rng(), np.errstate():
        torch.manual_seed(0)
        run(page, {"__name__": page.stem})
    plt.close("all")


def test_printed_output_is_compared(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 2\n```\n\n```pycon\n>>> x\n3\n```\n")
    with pytest.raises(AssertionError, match="Expected"):
        run(page, {})


def test_printed_output_of_commands_is_compared(tmp_path):
    page = tmp_path / "solve.md"
    page.write_text("```console\n$ echo 2\n2\n$ mrfq --version\nmrfq 0.0\n```\n")
    with pytest.raises(AssertionError, match=r"\$ mrfq --version"):
        run(page, {})


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "toml")], ids=lambda p: p.name)
def test_toml_on_a_page_is_toml(page, tmp_path):
    from mrfq.compare.reading import load_suite

    for _, _, text in blocks(page, "toml"):
        if "problems" in tomllib.loads(text):
            suite = tmp_path / "suite.toml"
            suite.write_text(text)
            assert list(load_suite(suite).cells())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_of_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text("utf-8")):
        if "://" not in target and "gallery/" not in target:
            assert (page.parent / target).exists(), target


def test_links_to_examples_lead_to_scripts():
    for page in PAGES:
        for folder, name in re.findall(r"gallery/(equivalence/)?(plot_\w+)", page.read_text("utf-8")):
            assert (ROOT / "docs" / (folder or "examples") / f"{name}.py").is_file(), f"{page.name}: {name}"


def test_the_readme_lists_every_solver():
    table = (ROOT / "README.md").read_text("utf-8").split("## Solvers")[1].split("\n## ")[0]
    own = {name for name, kind in registry.all_solvers().items() if kind.__module__.startswith("mrfq.")}
    listed = set(re.findall(r"`([a-z0-9-]+)`", table)) & set(registry.names())
    assert own == listed


def test_the_reference_lists_every_solver():
    text = (ROOT / "docs" / "api.rst").read_text("utf-8")
    listed = set(re.findall(r"solvers\.(\w+)$", text, re.MULTILINE))
    assert listed == set(mrfq.solvers.__all__) - {"Step"}


def test_tests_named_on_the_equivalence_page_exist():
    text = (ROOT / "docs" / "equivalence.md").read_text("utf-8")
    tests = (ROOT / "tests" / "test_identities.py").read_text("utf-8")
    named = re.findall(r"`(test_\w+)`", text)
    assert named
    assert [name for name in named if f"def {name}(" not in tests] == []


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert mrfq.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
