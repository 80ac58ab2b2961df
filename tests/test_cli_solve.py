"""`mrfq solve`, `mrfq generate` and `mrfq inspect`."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from rich.console import Console

import mrfq
from mrfq import generators, testing
from mrfq.cli import main
from mrfq.commands.inspect import submodular
from mrfq.commands.interrupt import Interrupt
from mrfq.commands.settings import make_solver, parse_settings
from mrfq.commands.solve import live
from mrfq.errors import InvalidParameterError, MrfqError
from mrfq.generators import GENERATORS
from mrfq.io.formats import read, write
from mrfq.io.mpe import read_mpe
from mrfq.problem import Factor
from mrfq.problems.factor_graph import FactorGraph
from mrfq.solvers import ICM, Gibbs

INF = float("inf")
KEYS = ["energy", "lower_bound", "gap", "proved", "solver", "status", "labels", "seconds", "variables", "factors"]


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


@pytest.fixture
def chain(tmp_path):
    path = tmp_path / "chain.uai"
    write(generators.chain(6, 3, seed=1), path)
    return path


@pytest.fixture
def clauses(tmp_path):
    """A factor graph of arity three, in a file."""
    path = tmp_path / "clauses.uai"
    tables = np.random.default_rng(0).random((2, 2, 2, 2))
    write(FactorGraph([2] * 4, [((0, 1, 2), tables[0]), ((1, 2, 3), tables[1])]), path)
    return path


# ---- solve ----------------------------------------------------------------------------------------------


def test_json_is_one_object_with_the_answer(chain, capsys):
    assert run("solve", chain, "--solver", "exhaustive", "--json") == 0
    said = capsys.readouterr()
    assert said.err == ""
    answer = json.loads(said.out)
    assert list(answer) == KEYS
    problem = read(chain)
    assert answer["energy"] == problem.energy(torch.tensor(answer["labels"])) == testing.exact_energy(problem)
    assert answer["proved"]
    assert answer["gap"] == pytest.approx(0, abs=1e-9)
    assert answer["status"].startswith("optimal")
    assert (answer["solver"], answer["variables"], answer["factors"]) == ("exhaustive", 6, 11)


def test_the_summary_is_for_people(chain, capsys):
    assert run("solve", chain, "-s", "icm") == 0
    said = capsys.readouterr()
    assert said.err == ""
    for word in ("energy", "lower bound", "none", "converged", "icm", "6 variables, 11 factors", "labels"):
        assert word in said.out


def test_results_in_files(chain, tmp_path, capsys):
    out, mpe, trace, columns = (tmp_path / name for name in ("a.json", "a.MPE", "a.csv", "b.json"))
    for file in (trace, columns):
        options = ("--out", out, "--mpe", mpe, "--trace", file, "--max-iters", 5, "--seed", 3)
        assert run("solve", chain, "-s", "gibbs", *options, "--json") == 0
    answer = json.loads(out.read_text())
    assert answer == {**json.loads(capsys.readouterr().out.splitlines()[-1])}
    assert read_mpe(mpe).tolist() == answer["labels"]
    solution = mrfq.solve(read(chain), "gibbs", max_iters=5, seed=3)
    assert solution.labels.tolist() == answer["labels"]
    assert len(trace.read_text().splitlines()) == 1 + len(solution.trace)
    assert json.loads(columns.read_text())["energy"] == solution.trace["energy"]


def test_evidence_keeps_the_numbering_and_the_energies(chain, tmp_path, capsys):
    evidence = tmp_path / "chain.evid"
    evidence.write_text("2 0 2 5 0\n")
    assert run("solve", chain, "-s", "exhaustive", "--evidence", evidence, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    labels = torch.tensor(answer["labels"])
    assert (labels[0], labels[5]) == (2, 0)
    assert answer["energy"] == pytest.approx(read(chain).energy(labels))


def test_an_infinite_energy_is_null(tmp_path, capsys):
    path = tmp_path / "forbidden.uai"
    path.write_text("MARKOV 1 2 1 1 0 2 0 0")
    assert run("solve", path, "-s", "icm", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["energy"] is None
    assert len(answer["labels"]) == 1
    assert run("solve", path, "-s", "icm") == 0
    assert "every labelling seen is forbidden" in capsys.readouterr().out


def test_factor_graphs_and_their_solvers(clauses, capsys):
    assert isinstance(read(clauses), FactorGraph)
    assert run("solve", clauses, "-s", "icm", "--json") == 0
    assert json.loads(capsys.readouterr().out)["variables"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-s", "icn"), "unknown solver 'icn'; did you mean 'icm'?"),
        (("-s", "icm", "--set", "ordre=colour"), "unknown parameter of ICM 'ordre'; did you mean 'order'?"),
        (("-s", "icm", "--set", "order"), "--set order: write it as --set key=value"),
        (("-s", "icm", "--set", "order=3"), "order must be"),
        (("-s", "gibbs", "--set", "beta=hot"), "beta must be"),
        (("-s", "icm", "--trace", "trace.txt"), "must end in .csv or .json"),
        (("-s", "icm", "--out", "nowhere/a.json"), "--out nowhere/a.json: there is no folder nowhere"),
        (("-s", "icm", "--evidence", "nowhere.evid"), "nowhere.evid: No such file"),
        (("-s", "md-tanh"), "cannot solve this problem"),
    ],
)
def test_errors_are_one_line(chain, capsys, options, message):
    assert run("solve", chain, *options) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mrfq: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_a_broken_file_is_one_line(tmp_path, capsys):
    path = tmp_path / "a.uai"
    path.write_text("MARKOV\n1\n2\n1\n1 0\n2\n0.5 x\n")
    assert run("solve", path, "-s", "icm") == 2
    assert capsys.readouterr().err == f"mrfq: {path}:7: found 'x', expected a number\n"
    assert run("inspect", path) == 2
    assert run("solve", tmp_path / "nowhere.uai", "-s", "icm") == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_prints_the_best_labelling_so_far(tmp_path):
    path, trace = tmp_path / "glass.json", tmp_path / "trace.csv"
    write(generators.spin_glass(30, 30, seed=0), path)
    code = (
        "import mrfq.commands.solve as command\n"
        "class Loud(command.Interrupt):\n"
        "    def __enter__(self):\n"
        "        entered = super().__enter__()\n"
        "        import sys; print('running', file=sys.stderr, flush=True)\n"
        "        return entered\n"
        "command.Interrupt = Loud\n"
        "from mrfq.cli import main; main()\n"
    )
    command = [sys.executable, "-c", code, "solve", str(path), "-s", "gibbs", "--max-iters", "100000000", "--json"]
    with subprocess.Popen(
        [*command, "--trace", str(trace)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "running\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    answer = json.loads(out)
    assert answer["status"].startswith("stopped")
    assert read(path).energy(torch.tensor(answer["labels"])) == answer["energy"]
    assert trace.exists()


def test_progress_is_shown_on_a_terminal_only():
    for terminal in (True, False):
        file = io.StringIO()
        with live(Console(file=file, force_terminal=terminal, width=80)) as show:
            show({"iteration": 3.0, "best_energy": -1.5, "bound": -2.0})
            show({"iteration": 4.0, "best_energy": -1.75, "bound": float("nan")})
        assert ("-1.75" in file.getvalue()) == terminal


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_the_second_ctrl_c_aborts():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_settings():
    texts = ["a=1", "b=2.5", "c=true", "d=colour", 'e="2"', "f=1e-3", "g=[1, 2]", "h=x=y", "i=", "j=1\nk=2"]
    expected = {"a": 1, "b": 2.5, "c": True, "d": "colour", "e": "2", "f": 1e-3, "g": [1, 2], "h": "x=y", "i": ""}
    assert parse_settings(texts) == {**expected, "j": "1\nk=2"}
    assert make_solver("icm", ["order=colour"]) == ICM(order="colour")
    assert make_solver("gibbs", ["beta=2.0"]) == Gibbs(beta=2.0)
    with pytest.raises(InvalidParameterError, match="key=value"):
        parse_settings(["=3"])
    with pytest.raises(MrfqError, match="kind"):
        make_solver("icm", ["kind=3"])


# ---- generate -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(GENERATORS))
def test_every_kind_is_generated_as_the_library_does(kind, tmp_path, capsys):
    path = tmp_path / "model.json.gz"
    assert run("generate", kind, "--seed", 5, "--out", path) == 0
    assert "PairwiseMRF" in capsys.readouterr().out
    made, model = GENERATORS[kind](seed=5), read(path)
    assert torch.equal(model.unary, made.unary)
    assert torch.equal(model.edge_tables(), made.edge_tables())


def test_generate_with_parameters(tmp_path):
    path = tmp_path / "model.uai"
    assert run("generate", "potts-grid", "--set", "height=2", "--set", "width=3", "--set", "labels=5", "-o", path) == 0
    assert read(path).shape == (6, 5)


def test_the_kinds_are_listed(capsys):
    assert run("generate") == 0
    listed = capsys.readouterr().out
    for kind in GENERATORS:
        assert kind in listed
    assert "height=16" in listed
    assert "seed" not in listed
    assert run("generate", "spinglass") == 2
    said = capsys.readouterr()
    assert "height=16" in said.err
    assert said.err.endswith("mrfq: unknown kind of model 'spinglass'; did you mean 'spin-glass'?\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chain",), "--out FILE is missing"),
        (("chain", "--out", "a.xyz"), "unknown suffix '.xyz'"),
        (("chain", "--out", "a.uai", "--set", "m=3"), "unknown key 'm'"),
        (("chain", "--out", "a.uai", "--set", "n=three"), "n must be a whole number, got 'three'"),
        (("chain", "--out", "a.uai", "--set", "n=1000000000"), "too large"),
        (("ferromagnet", "--out", "a.uai", "--set", "coupling=-1"), "coupling"),
        (("chain", "--out", "a.qpbo"), "variable 0 has 4 labels, but QPBO"),
    ],
)
def test_generate_refuses(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("generate", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("mrfq: ")
    assert message in said
    assert not os.listdir(tmp_path)


# ---- inspect --------------------------------------------------------------------------------------------


def test_inspect_says_what_is_there(tmp_path, capsys):
    path = tmp_path / "a.json"
    tables = [((0, 1), [[0.0, 1.0], [2.0, INF]]), ((1, 2), np.zeros((2, 3))), ((3,), [-4.0, 0.5]), ((), 7.0)]
    write(FactorGraph([2, 2, 3, 2], tables), path)
    assert run("inspect", path, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "kind": "FactorGraph",
        "variables": 4,
        "factors": 4,
        "labels": {"2": 3, "3": 1},
        "arities": {"0": 1, "1": 1, "2": 2},
        "entries": 13,
        "forbidden": 1,
        "lowest_cost": -4.0,
        "highest_cost": 7.0,
        "submodular": False,
        "components": 2,
        "largest_component": 3,
        "width": 1,
        "largest_joint_table": 6,
    }
    assert run("inspect", path) == 0
    text = capsys.readouterr().out
    assert "3 x 2, 1 x 3" in text
    assert "submodular" in text


def test_inspect_counts_evidence(chain, tmp_path, capsys):
    evidence = tmp_path / "chain.evid"
    evidence.write_text("1 0 2")
    assert run("inspect", chain, "--evidence", evidence, "--json") == 0
    assert json.loads(capsys.readouterr().out)["forbidden"] == 2


def test_submodularity():
    truncated = np.minimum(np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0))), 2)
    pair = lambda *rows: [Factor((0, 1), np.array(rows, dtype=float))]  # noqa: E731
    assert submodular([])
    assert submodular(generators.ferromagnet(3, 3).factors())
    assert submodular([Factor((0, 1), np.square(np.subtract.outer(np.arange(4.0), np.arange(4.0))))])
    assert submodular([Factor((0, 1), truncated)]) is False
    assert submodular(pair([0, INF], [INF, 0]))
    assert submodular(pair([INF, 0], [0, 0])) is False
    assert submodular(pair([0, INF, INF], [INF, INF, 0])) is None
    product = -np.einsum("i,j,k->ijk", *[np.arange(2.0)] * 3)
    assert submodular([Factor((0, 1, 2), product)])
    assert submodular([Factor((0, 1, 2), -product)]) is False
