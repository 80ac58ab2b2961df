"""Suites, runs that resume, tables: `mrfq compare` without its report."""

from __future__ import annotations

import csv
import json
import math
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

import pytest

import mrfq
from mrfq.cli import main
from mrfq.compare import conform, records, runner, work
from mrfq.compare.export import RUN_COLUMNS, TRACE_COLUMNS
from mrfq.compare.kinds import kinds
from mrfq.compare.reading import load_suite, packaged
from mrfq.compare.records import Record, Store
from mrfq.compare.results import Results, Summary
from mrfq.compare.runner import Outcome, run_suite
from mrfq.compare.suite import EXACT, Suite
from mrfq.errors import SuiteError, UnknownNameError
from mrfq.generators import GENERATORS
from mrfq.solution import COLUMNS
from mrfq.solvers import ICM, Restarts

GLASS = """
budget = 20
seeds = 2
[[problems]]
kind = "spin-glass"
height = 3
width = 3
[[solvers]]
solver = "icm"
"""


class Silent:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str, int]] = []
        self.notices: list[str] = []
        self.kept = 0

    def begin(self, total: int, kept: int) -> None:
        self.kept = kept

    def finished(self, cell: Any, record: Record) -> None:
        self.ran.append(cell.place)

    def notice(self, text: str) -> None:
        self.notices.append(text)


def run(*arguments: object) -> int:
    """Run the command line in this process, and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def rows(path: Path, *, times: bool = True) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if times or k != "seconds"} for row in csv.DictReader(file)]


def write(folder: Path, text: str, name: str = "suite.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the packaged smoke suite; do not change them."""
    out = tmp_path_factory.mktemp("smoke") / "results"
    assert run("compare", "smoke", "--out", out, "--jobs", 1) == 0
    return out


# ---- what a comparison writes ---------------------------------------------------------------------------------------


def test_one_command_writes_all_files(smoke: Path) -> None:
    assert sorted(p.name for p in smoke.iterdir()) == ["cells", "report.html", "runs.csv", "suite.json", "traces.csv"]
    runs, traces = rows(smoke / "runs.csv"), rows(smoke / "traces.csv")
    assert tuple(runs[0]) == RUN_COLUMNS
    assert tuple(traces[0]) == TRACE_COLUMNS == ("problem", "solver", "seed", *COLUMNS)
    suite = load_suite("smoke")
    assert len(runs) == len(list(suite.cells())) == 26
    assert {(r["problem"], r["solver"], int(r["seed"])) for r in runs} == {cell.place for cell in suite.cells()}
    assert len(list((smoke / "cells").iterdir())) == 26


def test_runs_agree_with_their_traces(smoke: Path) -> None:
    last = {(r["problem"], r["solver"], r["seed"]): r for r in rows(smoke / "traces.csv")}
    for row in rows(smoke / "runs.csv"):
        if row["status"] != "skipped":
            end = last[row["problem"], row["solver"], row["seed"]]
            assert float(end["best_energy"]) == pytest.approx(float(row["energy"]), rel=1e-9)
            assert end["oracle_calls"] == row["oracle_calls"]
            assert end["seconds"] == row["seconds"]


def test_gaps_refer_to_the_exact_or_the_best_energy(smoke: Path) -> None:
    runs = [row for row in rows(smoke / "runs.csv") if row["status"] != "skipped"]
    for seed in ("0", "1"):
        glass = {r["solver"]: r for r in runs if r["problem"] == "glass" and r["seed"] == seed}
        potts = [r for r in runs if r["problem"] == "potts" and r["seed"] == seed]
        assert {r["gap_to"] for r in glass.values()} == {"exact"}
        assert {r["gap_to"] for r in potts} == {"best"}
        exact = float(glass[EXACT]["energy"])
        assert float(glass[EXACT]["lower_bound"]) == exact
        for row in glass.values():
            assert float(row["gap"]) == pytest.approx(float(row["energy"]) - exact, abs=1e-9)
            assert float(row["gap"]) >= 0
        assert min(float(r["gap"]) for r in potts) == 0


def test_what_does_not_fit_is_skipped_with_its_reason(smoke: Path) -> None:
    skipped = [row for row in rows(smoke / "runs.csv") if row["status"] == "skipped"]
    assert {(r["problem"], r["solver"]) for r in skipped} == {("potts", "md-tanh")}
    assert all("two labels" in row["skipped_reason"] and row["energy"] == row["gap_to"] == "" for row in skipped)


def test_budgets_are_in_oracle_calls_and_the_exact_reference_has_none(smoke: Path) -> None:
    for row in rows(smoke / "runs.csv"):
        if row["solver"] == EXACT:
            assert int(row["oracle_calls"]) == 2  # elimination, and the energy of what it finds
        elif row["status"] != "skipped":
            assert int(row["oracle_calls"]) <= 30


def test_suite_json_runs_the_same_cells(smoke: Path) -> None:
    data = json.loads((smoke / "suite.json").read_text())
    assert data["environment"]["torch"]
    assert data["seeds"] == [0, 1]
    again = load_suite(smoke / "suite.json")
    assert {cell.key for cell in again.cells()} == {cell.key for cell in load_suite("smoke").cells()}
    listener = Silent()
    run_suite(again, smoke, listener)
    assert listener.ran == []


# ---- resuming -------------------------------------------------------------------------------------------------------


def test_finished_runs_are_not_run_again(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (smoke / "cells").iterdir()}
    tables = {name: (smoke / name).read_bytes() for name in ("runs.csv", "traces.csv", "suite.json", "report.html")}
    monkeypatch.setattr(work, "solve", None)
    assert run("compare", "smoke", "--out", smoke, "--jobs", 1) == 0
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (smoke / "cells").iterdir()}
    assert tables == {name: (smoke / name).read_bytes() for name in tables}


def test_an_interrupted_comparison_resumes_to_the_same_result(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, save, count = tmp_path / "out", Store.save, iter(range(100))

    def interrupted(self: Store, cell: Any, record: Record) -> None:
        if next(count) == 7:
            raise KeyboardInterrupt
        save(self, cell, record)

    monkeypatch.setattr(Store, "save", interrupted)
    assert run("compare", "smoke", "--out", out, "--jobs", 1) == 130
    assert "7 of 26 runs are finished and kept; the same command resumes" in capsys.readouterr().err
    assert len(rows(out / "runs.csv")) == len(list((out / "cells").iterdir())) == 7
    assert "not finished" in (out / "report.html").read_text()
    monkeypatch.setattr(Store, "save", save)
    assert run("compare", "smoke", "--out", out, "--jobs", 1) == 0
    assert "7 of 26 runs are finished already" in capsys.readouterr().out
    for name in ("runs.csv", "traces.csv"):
        assert rows(out / name, times=False) == rows(smoke / name, times=False)


def test_results_do_not_depend_on_jobs(tmp_path: Path) -> None:
    """One and two processes, on an MRF and on a network."""
    suite = """
    budget = 30
    seeds = 2
    solvers = ["rounding", "icm", "annealing", "pmf", "block-icm"]
    [[problems]]
    kind = "spin-glass"
    height = 3
    width = 3
    [[problems]]
    kind = "digits-tiny"
    epochs = 20
    """
    path = write(tmp_path, suite)
    for jobs in (1, 2):
        assert run("compare", path, "--out", tmp_path / str(jobs), "--jobs", jobs) == 0
    for name in ("runs.csv", "traces.csv"):
        assert rows(tmp_path / "1" / name, times=False) == rows(tmp_path / "2" / name, times=False)
    tiny = [row for row in rows(tmp_path / "1" / "runs.csv") if row["kind"] == "digits-tiny"]
    for row in tiny:
        expected = row["solver"] in ("rounding", "pmf", "block-icm")
        assert bool(row["test_accuracy"]) is bool(row["test_loss"]) is bool(row["float_test_accuracy"]) is expected


def test_a_changed_suite_runs_only_what_changed(tmp_path: Path) -> None:
    def new(text: str) -> list[tuple[str, str, int]]:
        listener = Silent()
        run_suite(load_suite(write(tmp_path, text)), tmp_path / "out", listener)
        return listener.ran

    assert new(GLASS) == [("spin-glass", "icm", 0), ("spin-glass", "icm", 1)]
    assert new(GLASS.replace("[[problems]]", '[[problems]]\nname = "renamed"')) == []
    assert new(GLASS + '[[solvers]]\nsolver = "gibbs"\n') == [("spin-glass", "gibbs", 0), ("spin-glass", "gibbs", 1)]
    assert new(GLASS.replace("seeds = 2", "seeds = [1, 5]")) == [("spin-glass", "icm", 5)]
    assert len(new(GLASS.replace("budget = 20", "budget = 21"))) == 2
    assert len(new(GLASS.replace("width = 3", "width = 4"))) == 2
    assert len(new(GLASS + 'order = "random"\n')) == 2


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"cell": {}}', "\x00", '{"cell": 1, "record": 2}'])
def test_a_damaged_cell_is_run_again_with_a_notice(tmp_path: Path, damage: str) -> None:
    suite = load_suite(write(tmp_path, GLASS))
    first = run_suite(suite, tmp_path, Silent())
    cell, record = first.records[1]
    Store(tmp_path, print).path(cell).write_text(damage)
    listener = Silent()
    second = run_suite(suite, tmp_path, listener)
    assert listener.ran == [cell.place]
    assert [cell.key in notice for notice in listener.notices] == [True]
    assert second.records[1][1].energy == record.energy


def test_every_part_of_a_damaged_record_is_noticed(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GLASS))
    cell, _ = run_suite(suite, tmp_path, Silent()).records[0]
    path = Store(tmp_path, print).path(cell)
    good = json.loads(path.read_text())
    for name, value in (
        ("energy", "x"),
        ("trace", {"a": [1], "b": []}),
        ("shape", 3),
        ("metrics", None),
        ("new", 1),
        ("status", 5),
    ):
        path.write_text(json.dumps({**good, "record": {**good["record"], name: value}}))
        notices: list[str] = []
        assert Store(tmp_path, notices.append).load(cell) is None
        assert len(notices) == 1


def test_a_failing_solver_does_not_stop_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, GLASS + '[[solvers]]\nsolver = "gibbs"\n')

    def broken(self: ICM, oracle: object, state: object) -> None:
        raise ZeroDivisionError("no luck\nsecond line")

    monkeypatch.setattr(ICM, "step", broken)
    assert run("compare", path, "--out", tmp_path / "out", "--jobs", 1) == 1
    assert "2 of 4 runs failed, the first: spin-glass, icm, seed 0" in capsys.readouterr().err
    status = {(r["solver"], r["seed"]): r["status"] for r in rows(tmp_path / "out" / "runs.csv")}
    assert status["icm", "0"] == "failed: ZeroDivisionError: no luck"
    assert status["gibbs", "1"].startswith("oracle call limit")
    monkeypatch.undo()
    assert run("compare", path, "--out", tmp_path / "out", "--jobs", 1) == 0, "failed runs are run again"


def test_fresh_runs_everything_again(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GLASS))
    run_suite(suite, tmp_path, Silent())
    listener = Silent()
    run_suite(suite, tmp_path, listener, fresh=True)
    assert len(listener.ran) == 2


def test_filters_choose_a_part_of_the_suite(tmp_path: Path) -> None:
    arguments = ("--solver", "pmf", "--solver", "icm", "--problem", "potts", "--seeds", 1, "--jobs", 1)
    assert run("compare", "smoke", "--out", tmp_path, *arguments) == 0
    found = [(row["problem"], row["solver"], row["seed"]) for row in rows(tmp_path / "runs.csv")]
    assert found == [("potts", name, "0") for name in ("icm", "pmf rate=0.1", "pmf rate=0.3")]
    assert [s.name for s in load_suite("smoke").select(solvers=["pmf rate=0.3"]).solvers] == ["pmf rate=0.3"]


# ---- suite files ----------------------------------------------------------------------------------------------------


def test_packaged_suites_load() -> None:
    assert packaged() == ["classical", "default", "layer", "smoke"]
    suite = load_suite("default")
    assert len(suite.seeds) >= 3
    assert len(suite.solvers) >= 20
    assert {"digits", "digits-tiny", "ferromagnet", "spin-glass", "denoising", "tree", "frustrated-cycle"} == {
        problem.kind for problem in suite.problems
    }
    assert {p.name for p in suite.problems if not p.exact} == {"digits-binary", "digits-ternary", "denoising"}


def test_every_generator_is_a_kind() -> None:
    assert kinds().keys() == GENERATORS.keys() | {
        "digits",
        "digits-tiny",
        "file",
        "layer",
        "layer-file",
        "digits-layer",
    }


def test_grids_and_overrides(tmp_path: Path) -> None:
    text = """
    budget = 5
    [[problems]]
    kind = "chain"
    [[problems]]
    name = "other"
    kind = "tree"
    seed = 7
    [[solvers]]
    name = "a"
    solver = "pmf"
    grid.rate = [0.5, { kind = "Step", optimizer = "sgd" }]
    grid.beta = [1.0, 2.0]
    on.mrf.beta = 3.0
    on.other.beta = 4.0
    [[solvers]]
    solver = "restarts"
    inner = { solver = "icm", order = "random" }
    """
    suite = load_suite(write(tmp_path, text))
    assert [s.name for s in suite.solvers] == [
        "a rate=0.5 beta=1",
        "a rate=0.5 beta=2",
        "a rate=Step(optimizer=sgd) beta=1",
        "a rate=Step(optimizer=sgd) beta=2",
        "restarts",
    ]
    first = suite.solvers[0]
    assert first.plain == {"solver": "pmf", "beta": 1.0, "rate": 0.5, "pull": "surrogate"}
    assert first.plain_on("chain")["beta"] == 3.0
    assert first.plain_on("other")["beta"] == 4.0
    assert suite.solvers[4].plain == {"solver": "restarts", "inner": {"solver": "icm", "order": "random"}, "starts": 10}
    assert suite.problems[1].parameters["seed"] == 7
    assert "seed" not in suite.problems[0].parameters
    assert suite.seeds == (0, 1, 2)
    assert Restarts(ICM(order="random")) == work.plain.from_plain(dict(suite.solvers[4].plain))


def test_a_fixed_seed_fixes_the_instance(tmp_path: Path) -> None:
    text = GLASS.replace("width = 3", "width = 3\nseed = 4\nexact = true")
    outcome = run_suite(load_suite(write(tmp_path, text)), tmp_path, Silent())
    energies = [record.energy for cell, record in outcome.records if cell.solver == EXACT]
    assert energies[0] == energies[1]


def test_the_key_of_a_cell_is_of_all_that_determines_it(tmp_path: Path) -> None:
    def keys(text: str) -> set[str]:
        return {cell.key for cell in load_suite(write(tmp_path, text)).cells()}

    same = GLASS.replace("height = 3\nwidth = 3", "width = 3\nheight = 3\nfield = 0.0")
    assert keys(GLASS) == keys(same)
    for change in ("trace_every = 2\n", "seeds = [3, 4]\n"):
        other = change + GLASS.replace("seeds = 2\n", "") if "seeds" in change else change + GLASS
        assert keys(GLASS).isdisjoint(keys(other))


TYPOS = {
    "syntax": ("budget = 20", "budget = ", "at line 2"),
    "top key": ("budget = 20", "buget = 20", "unknown key 'buget'; did you mean 'budget'?"),
    "top type": ("budget = 20", 'budget = "many"', "budget must be a whole number, got 'many'"),
    "seeds": ("seeds = 2", "seeds = 0", "seeds must be"),
    "seed list": ("seeds = 2", "seeds = [1, 1]", "seeds must be"),
    "seed type": ("seeds = 2", "seeds = [1.5]", "seeds must be"),
    "no problems": ("[[problems]]", "[[problem]]", "unknown key 'problem'; did you mean 'problems'?"),
    "kind": (
        'kind = "spin-glass"',
        'kind = "spinglass"',
        "unknown problem kind 'spinglass'; did you mean 'spin-glass'?",
    ),
    "no kind": ('kind = "spin-glass"', 'name = "x"', "problems entry 1 (x): the key 'kind' is required"),
    "parameter": ("height = 3", "heigth = 3", "problems entry 1: unknown key 'heigth'; did you mean 'height'?"),
    "problem key": ("height = 3", "bugdet = 3", "unknown key 'bugdet'; did you mean 'budget'?"),
    "parameter type": ("height = 3", 'height = "3"', "height must be a whole number, got '3'"),
    "parameter bool": ("height = 3", "height = true", "height must be a whole number"),
    "parameter value": ("height = 3", "height = -3", "problems entry 1: "),
    "huge": ("height = 3", "height = 1000000000", "too large, about 10^10 numbers; the limit is 100,000,000"),
    "huge network": (
        'kind = "spin-glass"\nheight = 3\nwidth = 3',
        'kind = "digits"\nhidden = [1000000000]',
        "too large",
    ),
    "budget value": ("budget = 20", "budget = 0", "budget must be at least 1"),
    "no budget": ("budget = 20", "", "the key 'budget' (oracle calls) is required"),
    "exact": (
        "height = 3\nwidth = 3",
        "height = 50\nwidth = 50\nexact = true",
        "exact = true is not possible: every elimination order found has width",
    ),
    "exact type": ("height = 3", "height = 3\nexact = 1", "exact must be true or false, got 1"),
    "levels": (
        'kind = "spin-glass"\nheight = 3\nwidth = 3',
        'kind = "digits"\nlevels = "tenary"',
        "did you mean 'ternary'",
    ),
    "solver": ('solver = "icm"', 'solver = "imc"', "solvers entry 1 (imc): unknown solver 'imc'; did you mean 'icm'?"),
    "no solver": ('solver = "icm"', 'name = "icm"', "the key 'solver' is required"),
    "solver parameter": (
        'solver = "icm"',
        'solver = "icm"\nordr = 1',
        "unknown parameter of icm 'ordr'; did you mean 'order'?",
    ),
    "solver literal": ('solver = "icm"', 'solver = "icm"\norder = "up"', "order must be"),
    "solver type": ('solver = "icm"', 'solver = "pmf"\nrate = "fast"', "rate must be a Step or a number, got 'fast'"),
    "nested kind": (
        'solver = "icm"',
        'solver = "pmf"\nrate = { kind = "Stp" }',
        "unknown kind 'Stp'; did you mean 'Step'?",
    ),
    "nested field": ('solver = "icm"', 'solver = "pmf"\nrate = { kind = "Step", rat = 1 }', "did you mean 'rate'?"),
    "nested type": (
        'solver = "icm"',
        'solver = "pmf"\nbeta = { kind = "Constant", value = "x" }',
        "value must be a number",
    ),
    "nested value": ('solver = "icm"', 'solver = "pmf"\nrate = { kind = "Step", rate = -1 }', "rate must be positive"),
    "inner": ('solver = "icm"', 'solver = "restarts"\ninner = { solver = "imc" }', "unknown solver 'imc'"),
    "missing inner": ('solver = "icm"', 'solver = "restarts"', "inner"),
    "grid": ('solver = "icm"', 'solver = "pmf"\ngrid.rat = [1.0]', "grid: unknown parameter of pmf 'rat'"),
    "grid type": ('solver = "icm"', 'solver = "pmf"\ngrid.rate = 1.0', "grid.rate must be a list"),
    "empty grid": ('solver = "icm"', 'solver = "pmf"\ngrid.rate = []', "grid.rate is empty"),
    "on": ('solver = "icm"', 'solver = "pmf"\non.networks.rate = 1.0', "'networks'; did you mean 'network'?"),
    "on type": ('solver = "icm"', 'solver = "pmf"\non.network = 1.0', "on.network must be a table"),
    "on parameter": ('solver = "icm"', 'solver = "pmf"\non.network.rat = 1.0', "on.network: unknown parameter"),
    "on solver": ('solver = "icm"', 'solver = "pmf"\non.network.solver = "bc"', "unknown parameter of pmf 'solver'"),
    "twice": ('solver = "icm"', 'solver = "icm"\n[[solvers]]\nsolver = "icm"', "two solvers are called 'icm'"),
    "reserved": ('solver = "icm"', 'name = "exact"\nsolver = "icm"', "the name 'exact' is reserved"),
}


@pytest.mark.parametrize("name", TYPOS)
def test_a_typo_is_one_message_before_anything_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, message = TYPOS[name]
    assert old in GLASS
    path = write(tmp_path, GLASS.replace(old, new, 1))
    assert run("compare", path, "--out", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert message in said.err
    assert str(path) in said.err
    assert said.err.count("\n") == 1, said.err
    assert said.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "smokee"], "unknown suite file 'smokee'; did you mean 'smoke'?"),
        (["compare", "nowhere/at-all.toml"], "unknown suite file"),
        (["compare", "smoke", "--solver", "imc"], "unknown solver 'imc'; did you mean 'icm'?"),
        (["compare", "smoke", "--problem", "glas"], "unknown problem 'glas'; did you mean 'glass'?"),
    ],
)
def test_unknown_names_on_the_command_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.toml", b"\xff\xfe"), ("a.json", b"{"), ("a.json", b"[1]"), ("a.toml", b"#" * 2**21), ("a.json", b"[" * 10**5)],
)
def test_files_that_are_no_suite(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SuiteError, match=name):
        load_suite(tmp_path / name)


def test_too_many_runs_are_refused(tmp_path: Path) -> None:
    values = ", ".join(f"{i}.5" for i in range(400))
    text = GLASS.replace("seeds = 2", "seeds = 300") + f'[[solvers]]\nsolver = "pmf"\ngrid.rate = [{values}]\n'
    with pytest.raises(SuiteError, match="more than 100,000 runs"):
        load_suite(write(tmp_path, text))


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, GLASS)
    assert run("compare", path, "--out", path) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_a_dead_worker_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import joblib
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    def dead(self: object, tasks: object) -> Any:
        raise TerminatedWorkerError
        yield

    monkeypatch.setattr(joblib.Parallel, "__call__", dead)
    with pytest.raises(runner.MrfqError, match="fewer --jobs"):
        run_suite(load_suite(write(tmp_path, GLASS)), tmp_path, Silent())


# ---- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, float, True),
        (True, float, False),
        (1, int, True),
        (1.0, int, False),
        (True, int, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        ([1, 2], tuple[int, ...], True),
        ([1, "2"], tuple[int, ...], False),
        ("12", list[str], False),
        (None, float | None, True),
        ("x", float | str | None, True),
        ({}, dict[str, Any], True),
        (object(), "an unresolved name", True),
    ],
)
def test_values_conform_to_hints(value: object, hint: object, fits: bool) -> None:
    assert conform.conforms(value, hint) is fits
    if not fits:
        with pytest.raises(SuiteError, match="x must be"):
            conform.check_value("here", "x", value, hint)


def test_records_keep_every_number(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GLASS))
    cell = next(suite.cells())
    trace: dict[str, list[float]] = {name: [math.nan] * 3 for name in COLUMNS}
    trace |= {"energy": [math.inf, -math.inf, 0.1 + 0.2], "iteration": [0, 1, 2]}
    record = Record("done", energy=math.inf, lower_bound=-math.inf, trace=trace, metrics={"m": math.nan})
    store = Store(tmp_path, print)
    store.open()
    store.save(cell, record)
    json.loads(store.path(cell).read_text(), parse_constant=pytest.fail)
    again = store.load(cell)
    assert again is not None
    assert repr(again) == repr(record)


def test_summaries() -> None:
    assert Summary.of([1.0, 2.0, math.nan, 3.0]) == Summary(2.0, 1.0, 3)
    assert Summary.of([5.0]) == Summary(5.0, 0.0, 1)
    assert math.isnan(Summary.of([math.nan]).mean)
    assert Summary.of([1.0, math.inf]).mean == math.inf


def test_rounding_errors_are_no_gap(tmp_path: Path) -> None:
    suite = load_suite(write(tmp_path, GLASS.replace("width = 3", "width = 3\nexact = true")))
    cells = list(suite.cells())
    energies = {EXACT: -3.0, "icm": -3.0 - 1e-12}
    outcome = Outcome(suite, [(cell, Record("done", energy=energies[cell.solver])) for cell in cells])
    assert [run.gap for run in Results.of(outcome).runs] == [0.0] * 4


def test_a_suite_is_plain_data(tmp_path: Path) -> None:
    suite = load_suite("default")
    path = write(tmp_path, json.dumps(suite.to_plain()), "default.json")
    again = load_suite(path)
    assert isinstance(again, Suite)
    assert [cell.key for cell in again.cells()] == [cell.key for cell in suite.cells()]


def test_the_documented_suite_is_a_suite(tmp_path: Path) -> None:
    import mrfq.compare

    text = (mrfq.compare.__doc__ or "").split("::\n")[1].split("\n\nAll of it")[0]
    suite = load_suite(write(tmp_path, text))
    assert [solver.name for solver in suite.solvers] == ["icm", "my-pmf rate=0.01", "my-pmf rate=0.1"]
    assert tomllib.loads(text)["seeds"] == 3


def test_unknown_names_name_the_entry() -> None:
    with pytest.raises(UnknownNameError, match="suite 'smoke': unknown problem"):
        load_suite("smoke").select(problems=["x"])
    assert records.SKIPPED != records.FAILED
    assert os.cpu_count()


# ---- models from files, and the classical suite ---------------------------------------------------------


def test_a_model_from_a_file_is_a_problem_like_any_other(tmp_path: Path) -> None:
    model, evidence = tmp_path / "model.uai.gz", tmp_path / "model.evid"
    mrfq.write(mrfq.generators.chain(n=6, labels=3, seed=4), model)
    evidence.write_text("1 2 0")
    problem = f'kind = "file"\npath = "{model}"\nevidence = "{evidence}"\nbudget = 20\nexact = true'
    suite = tmp_path / "suite.toml"
    suite.write_text(f'seeds = 2\n[[problems]]\n{problem}\n[[solvers]]\nsolver = "trws"\n')
    assert run("compare", suite, "--out", tmp_path / "out", "--jobs", 1) == 0
    observed = mrfq.solve(mrfq.read(model, evidence=evidence), "exhaustive").energy
    found = [float(row["energy"]) for row in rows(tmp_path / "out" / "runs.csv")]
    assert found == pytest.approx([observed] * 4, abs=1e-9)


def test_a_model_that_cannot_be_read_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.uai").write_text("MARKOV 1 x")
    suite = tmp_path / "suite.toml"
    problem = f'kind = "file"\npath = "{tmp_path / "model.uai"}"\nbudget = 20'
    suite.write_text(f'seeds = 1\n[[problems]]\n{problem}\n[[solvers]]\nsolver = "trws"\n')
    assert run("compare", suite, "--out", tmp_path / "out") == 2
    assert "model.uai:1: found 'x'" in capsys.readouterr().err


def test_the_classical_suite_is_sound() -> None:
    suite = load_suite("classical")
    assert {"auto", "trws", "graph-cut", "tabu"} <= {solver.name for solver in suite.solvers}
    exact = [cell for cell in suite.cells() if cell.solver == "exact"]
    assert {cell.plain["solver"] for cell in exact} == {"elimination"}
