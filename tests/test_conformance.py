"""Every built-in solver passes the public conformance suite, and the suite notices broken promises."""

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import mrfq
from mrfq import Solver, State, Status, testing
from mrfq.errors import ConformanceError, UnknownNameError


@pytest.mark.parametrize("problem", testing.PROBLEMS)
def test_every_solver_keeps_every_promise(solver, problem):
    testing.check_solver(solver, problems=[problem])


def test_every_problem_is_small_enough_to_enumerate():
    for name, make in testing.PROBLEMS.items():
        n, count = make().shape
        assert count**n <= 1000, name


def test_every_problem_is_the_same_each_time():
    for make in testing.PROBLEMS.values():
        labels = make().label_set.round(torch.zeros(make().shape))
        assert make().energy(labels) == make().energy(labels)


def test_the_report_says_what_was_checked_and_what_was_not():
    report = testing.check_solver(mrfq.solvers.ICM(), ["tree", "smooth-ternary"], ["labelling-is-valid"])
    assert report.passed == [("tree", "labelling-is-valid")]
    assert "site sweep" in report.skipped["smooth-ternary", "labelling-is-valid"]
    assert "1 promises kept, 1 not applicable" in str(report)


def test_unknown_names_are_suggested():
    with pytest.raises(UnknownNameError, match="did you mean 'tree'"):
        testing.check(mrfq.solvers.ICM(), "treee", "labelling-is-valid")
    with pytest.raises(UnknownNameError, match="did you mean 'callback-stops'"):
        testing.check(mrfq.solvers.ICM(), "tree", "callback-stop")


# ---- solvers that break one promise each ----------------------------------------------------------------


@dataclass(frozen=True)
class Honest(Solver[State]):
    """Keeps every promise by trying random labellings."""

    def init(self, oracle, start):
        return State(labels=oracle.problem.label_set.round(start))

    def step(self, oracle, state):
        labels = oracle.problem.label_set
        scores = torch.rand(labels.shape, generator=oracle.generator, dtype=torch.float64)
        trial = labels.round(scores)
        oracle.energy(trial)
        state.labels = trial
        return state


class OutOfRange(Honest):
    def step(self, oracle, state):
        oracle.energy(state.labels)
        state.labels = torch.full_like(state.labels, oracle.problem.shape[1])
        return state


class WrongBound(Honest):
    def step(self, oracle, state):
        state = super().step(oracle, state)
        state.bound = oracle.problem.energy(state.labels) + 1.0
        return state


class GlobalNoise(Honest):
    def step(self, oracle, state):
        oracle.energy(state.labels)
        state.labels = oracle.problem.label_set.round(torch.rand(oracle.problem.shape))
        return state


class GlobalNumpy(Honest):
    def step(self, oracle, state):
        np.random.random()  # noqa: NPY002
        return super().step(oracle, state)


class GlobalPython(Honest):
    def step(self, oracle, state):
        random.random()
        return super().step(oracle, state)


class WritesToTheProblem(Honest):
    def step(self, oracle, state):
        getattr(oracle.problem, "unary", torch.zeros(1))[0] += 1.0
        return super().step(oracle, state)


class RemembersOutsideItsState(Honest):
    def step(self, oracle, state):
        vars(self)["count"] = vars(self).get("count", 0) + 1
        for _ in range(vars(self)["count"]):
            state = super().step(oracle, state)
        return state


@dataclass
class Unfrozen(Honest.__mro__[1]):
    steps: list = field(default_factory=list)

    init, step = Honest.init, Honest.step


class NeverAsks(Honest):
    def step(self, oracle, state):
        return state


class LeavesTheSimplex(Honest):
    def step(self, oracle, state):
        oracle.energy(state.labels)
        state.u = torch.full(oracle.problem.shape, 0.9, dtype=oracle.problem.dtype)
        return state


class Crashes(Honest):
    def step(self, oracle, state):
        raise ZeroDivisionError("oh")


def test_an_honest_third_party_solver_passes():
    report = testing.check_solver(Honest())
    assert len(report.passed) > 150
    assert set(report.skipped.values()) == {"it is not registered, so it has no name in plain data"}


@pytest.mark.parametrize(
    ("liar", "promise"),
    [
        (OutOfRange(), "labelling-is-valid"),
        (LeavesTheSimplex(), "labelling-is-valid"),
        (WrongBound(), "bound-exact-energy"),
        (GlobalNoise(), "same-seed-same-bits"),
        (GlobalNumpy(), "same-seed-same-bits"),
        (GlobalPython(), "same-seed-same-bits"),
        (RemembersOutsideItsState(), "same-seed-same-bits"),
        (WritesToTheProblem(), "inputs-are-not-changed"),
        (Unfrozen(), "solver-is-plain-data"),
        (Crashes(), "labelling-is-valid"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_broken_promise_is_named(liar, promise):
    with pytest.raises(ConformanceError, match=f"{type(liar).__name__} breaks the promise '{promise}' on .*'tree'"):
        testing.check_solver(liar, ["tree"], [promise])


def test_steps_without_oracle_calls_are_noticed(monkeypatch):
    monkeypatch.setattr(testing, "PATIENCE", 0.2)
    with pytest.raises(ConformanceError, match="budgets-are-respected"):
        testing.check(NeverAsks(), "tree", "budgets-are-respected")


def test_a_conformance_error_is_an_assertion_error():
    assert issubclass(ConformanceError, AssertionError)
    assert str(Status.STOPPED).startswith("stopped")
