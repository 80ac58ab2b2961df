"""The command line: speed, help, errors, and the list of solvers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mrfq
import mrfq.projections
import mrfq.solvers
from mrfq import registry
from mrfq.cli import main
from mrfq.compare.catalogue import example, inline, needs

HEAVY = ("torch", "numba", "matplotlib", "scipy", "networkx", "joblib", "jinja2", "numpy")


def run(*arguments: str) -> int:
    """Run the command line in this process, and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return int(caught.value.code or 0)


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = f"""
import sys
from mrfq.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
heavy = [name for name in {HEAVY} if name in sys.modules]
assert not heavy, heavy
"""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
        times.append(time.perf_counter() - began)
        assert result.returncode == 0, result.stderr
        assert "compare" in result.stdout
        assert "solvers" in result.stdout
    assert min(times) < 0.5


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == f"mrfq {mrfq.__version__}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("comparee",),
        ("compare", "--jobs", "x"),
        ("compare", "--jobs", "-1"),
        ("compare", "--seeds", "0"),
        ("--nope",),
        (),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "Usage" in said.err + said.out


def test_solvers_lists_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("solvers") == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    for name in registry.names():
        assert any(line.startswith(f"{name} ") for line in lines), name
    assert "use when" in text
    assert "site sweep" in text


@pytest.mark.parametrize("name", registry.names())
def test_every_solver_can_be_described(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("solvers", name) == 0
    text = " ".join(capsys.readouterr().out.split())
    kind = registry.get(name)
    assert text.startswith(name)
    assert " ".join(kind.reference.split()) in text
    assert "example mrfq.solve(problem, " in text
    assert "Examples" not in text
    for field in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        assert field in text


def test_the_examples_run() -> None:
    problem = mrfq.generators.ferromagnet(2, 2)
    for name, kind in registry.all_solvers().items():
        if "an optional package" in needs(kind):
            continue
        line = example(name, kind).replace("1000", "2")
        solution = eval(line, {"mrfq": mrfq, "problem": problem})
        assert len(solution.labels) == 4


def test_an_unknown_solver_is_one_message_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("solvers", "pfm") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "mrfq: unknown solver 'pfm'; did you mean 'pmf'?\n"


def test_needs_in_words() -> None:
    solvers = registry.all_solvers()
    assert needs(solvers["icm"]) == "site sweep"
    assert needs(solvers["md-tanh"]) == "two labels"
    assert needs(solvers["pmf"]) == "any problem"
    assert needs(solvers["restarts"]) == "what its parts need"


def test_plain_data_is_written_as_in_a_suite_file() -> None:
    value = {"kind": "Step", "rate": 0.1, "on": True, "list": [1, "a"], "none": None}
    assert inline(value) == '{ kind = "Step", rate = 0.1, on = true, list = [1, "a"], none = not set }'


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -c 'from mrfq.cli import main; main()' --help | true"
    result = subprocess.run(command, shell=True, check=False, capture_output=True, text=True)
    assert result.stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    suite = tmp_path / "long.toml"
    suite.write_text(
        'budget = 2000\nseeds = 50\nsolvers = ["mean-field"]\n'
        '[[problems]]\nkind = "denoising"\nheight = 48\nwidth = 48\n'
    )
    command = [sys.executable, "-c", "from mrfq.cli import main; main()", "compare", str(suite), "--jobs", "1"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("[1/50]")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command resumes" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "out" / "report.html").exists()
    assert list((tmp_path / "out" / "cells").iterdir())
