"""The loop: budgets, statuses, starts, traces, resuming, bad arguments."""

import csv
import io
import json
import math
import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import Quadratic

import mrfq
from mrfq import (
    CapabilityError,
    Geometric,
    InvalidParameterError,
    InvalidProblemError,
    PairwiseMRF,
    Solver,
    State,
    Status,
    UnknownNameError,
    generators,
    solve,
    solvers,
)
from mrfq.solution import COLUMNS, Solution, Trace
from mrfq.start import starting_point
from mrfq.testing import LogCosh

INF = math.inf


@pytest.fixture
def glass():
    return generators.spin_glass(4, 4, seed=1)


@pytest.fixture
def chain():
    return generators.chain(6, 3, seed=1)


# ---- statuses and budgets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "options", "status"),
    [
        ("icm", {}, Status.CONVERGED),
        ("exhaustive", {}, Status.OPTIMAL),
        ("gibbs", {"max_iters": 5}, Status.ITERATION_LIMIT),
        ("gibbs", {"max_oracle_calls": 5}, Status.CALL_LIMIT),
        ("gibbs", {"max_iters": 0}, Status.ITERATION_LIMIT),
        ("gibbs", {"max_oracle_calls": 0}, Status.CALL_LIMIT),
        ("gibbs", {"time_limit": 0}, Status.TIME_LIMIT),
        ("gibbs", {"max_iters": 10**9, "time_limit": 0.05}, Status.TIME_LIMIT),
        ("gibbs", {"callback": lambda row: row["iteration"] == 3}, Status.STOPPED),
    ],
)
def test_a_run_says_why_it_ended(glass, solver, options, status):
    assert solve(glass, solver, **options).status is status


def test_two_variables_that_swap_for_ever_are_called_stalled():
    swap = PairwiseMRF(np.zeros((2, 2)), [[0, 1]], [[1.0, 0.0], [0.0, 1.0]])
    solution = solve(swap, solvers.ProximalICM(rate=10.0), init=np.array([0, 0]), max_iters=50)
    assert solution.status is Status.STALLED
    assert solution.iterations < 10


def test_steps_with_a_memory_are_not_called_stalled():
    swap = PairwiseMRF(np.zeros((2, 2)), [[0, 1]], [[1.0, 0.0], [0.0, 1.0]])
    solver = solvers.ProximalICM(rate=mrfq.Step(10.0, decay=mrfq.Cosine()))
    assert solve(swap, solver, init=np.array([0, 0]), max_iters=50).iterations > 10


def test_statuses_are_sentences():
    assert all(len(str(status).split()) >= 3 for status in Status)


@pytest.mark.parametrize("solver", ["gibbs", "pmf", "md-softmax-s", "frank-wolfe"])
def test_a_budget_of_calls_is_a_budget_of_steps_of_one_call(chain, solver):
    steps, calls = solve(chain, solver, max_iters=20), solve(chain, solver, max_oracle_calls=20)
    assert steps.oracle_calls == calls.oracle_calls == 20
    for column in set(COLUMNS) - {"seconds"}:
        assert repr(steps.trace[column]) == repr(calls.trace[column])


def test_schedules_go_from_their_first_to_their_last_value(chain):
    for budget in ({"max_iters": 9}, {"max_oracle_calls": 9}):
        solution = solve(chain, solvers.ParallelMeanField(beta=Geometric(1, 100)), **budget)
        assert solution.trace["beta"][1] == pytest.approx(1)
        assert solution.trace["beta"][-1] == pytest.approx(100)


def test_a_budget_of_calls_counts_what_the_solver_asks_for():
    problem = Quadratic("binary", n=6)
    asked = []
    problem.linearize = lambda u, draw=None, f=problem.linearize: asked.append("linearize") or f(u)
    solution = solve(problem, solvers.BlockICM(curvature=True))
    assert solution.oracle_calls > len(asked) > 0
    assert solution.trace["oracle_calls"][-1] == solution.oracle_calls


class SlowToEvaluate(LogCosh):
    def energy(self, labels):
        time.sleep(0.02)
        return super().energy(labels)


def test_evaluation_is_not_charged():
    solution = solve(SlowToEvaluate("binary"), solvers.BinaryConnect(rate=0.1), max_iters=10)
    assert solution.seconds < 0.1
    assert solution.trace["seconds"] == sorted(solution.trace["seconds"])


def test_a_costly_problem_is_evaluated_fifty_times():
    problem = LogCosh("binary")
    problem.costly = True
    assert len(solve(problem, "bc", max_iters=500).trace) == 51
    assert len(solve(problem, "bc", max_iters=500, trace_every=100).trace) == 6


def test_the_last_step_is_always_evaluated(chain):
    assert solve(chain, "gibbs", max_iters=10, trace_every=4).trace["iteration"] == [0, 4, 8, 10]


def test_the_callback_sees_every_row(chain):
    rows = []
    solution = solve(chain, "gibbs", max_iters=4, callback=rows.append)
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4]
    assert set(rows[0]) == set(COLUMNS)
    assert repr(rows) == repr(solution.trace.rows()[1:])


def test_different_seeds_give_different_runs(glass):
    assert (
        solve(glass, "gibbs", seed=1, max_iters=3).trace["energy"] != solve(glass, "gibbs", max_iters=3).trace["energy"]
    )


# ---- non-finite numbers ---------------------------------------------------------------------------------


class Breaks(LogCosh):
    """Gives NaN from its fourth linearisation on."""

    count = 0

    def linearize(self, u, draw=None):
        self.count += 1
        value, g = super().linearize(u)
        return value, g if self.count < 4 else g * math.nan


def test_nan_ends_the_run_and_keeps_the_best():
    solution = solve(Breaks("ternary"), solvers.StableMirrorDescent(rate=0.5), max_iters=20)
    sound = solve(LogCosh("ternary"), solvers.StableMirrorDescent(rate=0.5), max_iters=20)
    assert solution.status is Status.NON_FINITE
    assert solution.iterations == 4
    assert solution.energy == min(sound.trace["energy"][:4])
    assert math.isnan(solution.trace["energy"][-1])
    assert solution.trace["best_energy"][-1] == solution.energy


def test_an_energy_that_is_nan_ends_the_run():
    problem = LogCosh("ternary")
    problem.energy = lambda labels: math.nan
    assert solve(problem, "bc", max_iters=20).status is Status.NON_FINITE


def test_an_infeasible_problem_returns_a_labelling_of_infinite_energy():
    problem = mrfq.testing.PROBLEMS["infeasible"]()
    for solver in ("icm", "pmf", "exhaustive"):
        assert solve(problem, solver, max_iters=5).energy == INF


# ---- solutions ------------------------------------------------------------------------------------------


def solution_with(energy, bound):
    return Solution(torch.zeros(1), energy, torch.zeros(1, 1), bound, Status.CONVERGED, Trace(), 0, 0, 0.0)


@pytest.mark.parametrize(
    ("energy", "bound", "gap", "proved"),
    [
        (2.0, None, None, False),
        (2.0, 1.5, 0.5, False),
        (2.0, 2.0, 0.0, True),
        (1e12, 1e12 - 1.0, 1.0, True),
        (INF, 0.0, INF, False),
        (INF, INF, 0.0, True),
        (2.0, -INF, INF, False),
    ],
)
def test_gap_and_proof_follow_from_energy_and_bound(energy, bound, gap, proved):
    solution = solution_with(energy, bound)
    assert solution.gap == gap
    assert solution.proved is proved


def test_the_solution_is_independent_of_the_run(chain):
    first = solve(chain, "gibbs", max_iters=3)
    first.labels[:] = 0
    first.relaxed[:] = 0
    again = solve(chain, "gibbs", max_iters=6, resume=first)
    assert chain.energy(again.labels) == again.energy == solve(chain, "gibbs", max_iters=6).energy


# ---- starts ---------------------------------------------------------------------------------------------


def start_of(problem, init, seed=0):
    return starting_point(problem, init, torch.Generator().manual_seed(seed))


def test_the_unary_start_rounds_to_the_cheapest_labels():
    mrf = generators.potts_grid(4, 4, 5, seed=2)
    gap = mrf.unary.sort(1).values.diff(dim=1)[:, 0] > 0.1  # beyond the noise that breaks ties
    assert mrf.label_set.round(start_of(mrf, "unary"))[gap].equal(mrf.unary.argmin(1)[gap])


def test_the_uniform_start_is_nearly_uniform():
    assert float((start_of(generators.chain(50, 4), "uniform") - 0.25).abs().max()) < 0.05


def test_the_random_start_is_uniform_on_the_simplex():
    # The marginals of the uniform law on the simplex of three labels are Beta(1, 2): P(u < x) = 1 - (1 - x)^2.
    u = start_of(PairwiseMRF(np.zeros((4000, 3))), "random")
    for x in (0.1, 0.3, 0.6):
        assert float((u < x).double().mean()) == pytest.approx(1 - (1 - x) ** 2, abs=0.015)


def test_labels_that_do_not_exist_do_not_change_the_start():
    unary = np.array([[100.0, 101.0], [103.0, 100.0], [100.5, 101.0]])
    padded = PairwiseMRF(np.pad(unary, ((0, 0), (0, 1))), mask=np.ones((3, 3), dtype=bool) & [True, True, False])
    u, v = start_of(PairwiseMRF(unary), "unary"), start_of(padded, "unary")
    assert not v[:, 2].any()
    torch.testing.assert_close(u.log().diff(dim=1), v[:, :2].log().diff(dim=1), rtol=0.1, atol=0.2)


def test_a_problem_may_have_a_start_of_its_own():
    problem = LogCosh("ternary")
    problem.initial = lambda: torch.tensor([2, 1, 0, 1])
    assert solve(problem, "rounding").labels.tolist() == [2, 1, 0, 1]
    assert solve(problem, "rounding", init=np.array([0, 0, 0, 0])).labels.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        ("unry", InvalidParameterError, "'unary', 'uniform', 'random' or an array, got 'unry'"),
        (np.zeros(5, dtype=int), InvalidProblemError, r"shape \(6,\)"),
        (np.array([0, 0, 3, 0, 0, 0]), InvalidProblemError, r"labels\[2\] is 3, but variable 2 has 3"),
        (np.zeros((6, 2)), InvalidProblemError, r"\(6, 3\), got \(6, 2\)"),
        (np.eye(6, 3) * 0.5, InvalidProblemError, "row 0 of init is not a distribution"),
        (np.full((6, 3), np.nan), InvalidProblemError, "row 0 of init"),
        (["a", "b"], InvalidProblemError, "init is not an array of numbers"),
        ([[0.5], [0.5, 0.5]], InvalidProblemError, "init is not an array of numbers"),
    ],
)
def test_bad_starts_are_named(chain, init, error, message):
    with pytest.raises(error, match=message):
        solve(chain, "icm", init=init)


# ---- resuming -------------------------------------------------------------------------------------------


def test_resuming_extends_the_budget(chain):
    first = solve(chain, "gibbs", max_iters=5)
    whole = solve(chain, "gibbs", max_iters=12)
    again = solve(chain, "gibbs", max_iters=12, resume=first)
    assert again.trace["energy"] == whole.trace["energy"]
    assert first.iterations == 5
    assert len(first.trace) == 6


def test_resuming_a_finished_run_returns_it(chain):
    first = solve(chain, "icm")
    again = solve(chain, "icm", resume=first)
    assert again.iterations == first.iterations
    assert again.labels.equal(first.labels)


@pytest.mark.parametrize(
    "other", [lambda c: (c, solvers.Gibbs(beta=2.0)), lambda c: (c, "icm"), lambda c: (generators.chain(7, 3), "gibbs")]
)
def test_resuming_something_else_is_refused(chain, other):
    first = solve(chain, "gibbs", max_iters=2)
    with pytest.raises(InvalidParameterError, match="same solver, parameters and problem"):
        solve(*other(chain), resume=first)


def test_momentum_and_schedule_survive_an_interruption():
    problem = Quadratic("ternary", n=6)
    solver = solvers.ProximalMeanField()
    whole = solve(problem, solver, max_iters=40)
    part = solve(problem, solver, max_iters=40, callback=lambda row: row["iteration"] == 17)
    again = solve(problem, solver, resume=part)
    assert again.relaxed.equal(whole.relaxed)
    assert again.status is Status.ITERATION_LIMIT


# ---- traces ---------------------------------------------------------------------------------------------


@pytest.fixture
def trace(chain):
    return solve(chain, "md-softmax-s", max_iters=4).trace


def test_a_trace_is_columns_and_rows(trace):
    assert tuple(trace.columns) == COLUMNS
    assert trace.rows()[2]["energy"] == trace["energy"][2]


def test_csv_reads_back(trace, tmp_path):
    text = trace.to_csv(tmp_path / "trace.csv")
    assert (tmp_path / "trace.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(row["energy"]) for row in rows] == trace["energy"]
    assert list(tmp_path.iterdir()) == [tmp_path / "trace.csv"]


def test_json_reads_back_with_null_for_missing_numbers(trace):
    columns = json.loads(trace.to_json())
    assert columns["energy"] == trace["energy"]
    assert columns["bound"] == [None] * len(trace)


def test_a_data_frame_has_the_columns(trace):
    frame = trace.to_pandas()
    assert tuple(frame.columns) == COLUMNS
    assert frame["energy"].tolist() == trace["energy"]


def test_a_plot_draws_the_columns_that_exist(trace):
    import matplotlib.pyplot as plt

    ax = trace.plot(x="seconds")
    assert [line.get_label() for line in ax.get_lines()] == ["relaxed energy", "energy", "best energy"]
    assert ax.get_xlabel() == "seconds"
    assert trace.plot(ax=ax) is ax
    plt.close("all")


# ---- bad arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"max_iters": -1}, {"max_oracle_calls": -1}, {"trace_every": 0}, {"time_limit": -1.0}, {"time_limit": math.nan}],
)
def test_bad_budgets_are_named(chain, options):
    with pytest.raises(InvalidParameterError, match=next(iter(options))):
        solve(chain, "gibbs", **options)


@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        ("icn", UnknownNameError, "unknown solver 'icn'; did you mean 'icm'"),
        ("splitting", InvalidParameterError, "projection"),
        (solvers.ICM, InvalidParameterError, "must be a Solver or the name of one"),
        (None, InvalidParameterError, "must be a Solver or the name of one"),
        ("md-tanh-s", CapabilityError, "exactly two labels.*solvers that fit: auto, .* more"),
        (solvers.BlockICM(curvature=True), CapabilityError, "PairwiseMRF does not offer a diagonal curvature"),
    ],
)
def test_a_bad_solver_is_named(chain, solver, error, message):
    with pytest.raises(error, match=message):
        solve(chain, solver)


@pytest.mark.parametrize("problem", [np.zeros((2, 2)), None, "chain"])
def test_something_that_is_no_problem_is_named(problem):
    with pytest.raises(InvalidProblemError, match=r"is not a problem, it lacks label_set"):
        solve(problem, "icm")


def test_a_capability_error_names_what_is_missing_and_what_fits():
    with pytest.raises(CapabilityError, match=r"ICM cannot solve .* LogCosh does not offer a site sweep; .*block-icm"):
        solve(LogCosh("binary"), "icm")
    with pytest.raises(CapabilityError, match=r"limit is 16,777,216"):
        solve(LogCosh("binary", n=60), "exhaustive")


class TrivialBound(Solver[State]):
    def init(self, oracle, start):
        return State(u=start, bound=-INF)

    def step(self, oracle, state):
        oracle.linearize(state.u)
        return state


def test_a_bound_of_minus_infinity_proves_nothing(chain):
    solution = solve(chain, TrivialBound(), max_iters=3)
    assert solution.status is Status.ITERATION_LIMIT
    assert not solution.proved


class Nothing(Solver[State]):
    def init(self, oracle, start):
        return State(u=start)

    def step(self, oracle, state):
        oracle.linearize(state.u)
        return state


def test_an_unregistered_solver_runs(chain):
    assert solve(chain, Nothing(), max_iters=2).iterations == 2


# ---- energies told by sweeps ----------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepsAndMeddles(Solver[State]):
    """Sweeps like ICM, then changes one of the labels behind the back of torch."""

    def init(self, oracle, start):
        return State(labels=oracle.problem.label_set.round(start))

    def step(self, oracle, state):
        oracle.sweep(state.labels, "argmin")
        state.labels.numpy()[oracle.iteration % 6] = 0
        return state


class SweepsTwice(SweepsAndMeddles):
    def step(self, oracle, state):
        oracle.sweep(state.labels, "argmin")
        oracle.sweep(state.labels, "argmin")
        return state


@pytest.mark.parametrize("solver", [SweepsAndMeddles(), SweepsTwice(), solvers.ICM(), solvers.Restarts(solvers.ICM())])
def test_the_trace_has_the_energies_of_the_labellings(solver):
    for seed in range(20):
        problem = generators.potts_graph(6, 3, seed=seed)
        seen = []
        inner = problem.sweep

        def sweep(point, rule, seen=seen, inner=inner, **options):
            report = inner(point, rule, **options)
            seen.append(point)
            return report

        problem.sweep = sweep
        energies = []
        solution = solve(
            problem, solver, max_iters=30, callback=lambda row, e=energies, p=problem, s=seen: e.append(p.energy(s[-1]))
        )
        assert solution.trace["energy"][1:] == pytest.approx(energies, abs=1e-12)


def test_what_cancels_is_computed_anew():
    # From 1e30 to -3: adding up what the sweep tells would leave nothing of the -3.
    problem = PairwiseMRF([[1e30, -1.0], [1e30, -2.0]], [[0, 1]], np.zeros((2, 2)))
    solution = solve(problem, "icm", init=np.array([0, 0]))
    assert solution.trace["energy"][1:] == [-3.0] * solution.iterations


def test_the_loop_asks_for_few_energies_of_a_model_that_is_swept():
    problem, asked = generators.denoising(20, 20, 4, noise=1.0), []
    energy = problem.energy
    problem.energy = lambda labels: asked.append(1) or energy(labels)
    solution = solve(problem, "icm", init="random")
    assert solution.iterations > 4
    assert len(asked) <= 4
