"""The only loop: budgets, seeds, evaluation, best labelling so far, trace, callbacks, resuming."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.incumbent import Incumbent
from mrfq.oracle import UNLIMITED, Oracle
from mrfq.problem import Problem, check_match, mismatch
from mrfq.registry import fitting, make
from mrfq.solution import Solution, Status, Trace, meets
from mrfq.solver import Solver, State
from mrfq.start import Init, starting_point

Callback = Callable[[dict[str, float]], bool | None]
#: a problem with an expensive energy is evaluated about this often in a run
COSTLY_EVALUATIONS = 50


@dataclass
class Checkpoint:
    """Everything a run needs to go on as if it had not been interrupted."""

    solver: Solver[Any]
    state: State
    generator: Tensor
    trace: Trace
    calls: int
    draws: int
    iteration: int
    horizon: int
    max_calls: int | None
    seconds: float
    incumbent: Incumbent
    bound: float | None


def solve(
    problem: Problem,
    solver: Solver[Any] | str,
    *,
    init: Init = None,
    max_iters: int | None = None,
    max_oracle_calls: int | None = None,
    time_limit: float | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    trace_every: int | None = None,
    resume: Solution | None = None,
) -> Solution:
    """Minimise the energy of a problem.

    Parameters
    ----------
    problem : Problem
        A `PairwiseMRF`, a `NetworkLoss`, or anything with the `Problem` protocol. Never changed.
    solver : Solver or str
        A solver, or its registered name for default parameters.
    init : str or array, optional
        Where to start: "unary", "uniform", "random", a labelling (n,) or a relaxed labelling (n, L). By default
        the problem's own start if it has one (the float weights of a network), else "unary".
    max_iters : int, optional
        Steps of the solver, 1000 by default (without limit when `max_oracle_calls` is given, and for solvers that end
        by themselves).
    max_oracle_calls : int, optional
        Budget in oracle calls: linearisations, sweeps and energies asked for by the solver. The step that
        reaches it is the last.
    time_limit : float, optional
        Wall-clock seconds. At 0 the rounded start is returned.
    seed : int
        Of everything random; the same seed on the same machine gives the same bits.
    callback : callable, optional
        Called with each row of the trace as a dictionary; a true return value stops the run.
    trace_every : int, optional
        Steps between evaluations. By default 1, and a fiftieth of the run for a problem that calls itself `costly`.
    resume : Solution, optional
        Go on where that run stopped, with its seed, trace and budget (`max_iters` and `max_oracle_calls` here
        extend the budget, not the schedules' idea of it).

    Returns
    -------
    Solution
        Its labelling is the best one evaluated, its energy is recomputed from it.

    Raises
    ------
    CapabilityError
        The problem does not offer what the solver needs.
    UnknownNameError
        No solver of that name.
    InvalidParameterError, InvalidProblemError
        A budget or a start that makes no sense.

    Examples
    --------
    >>> import mrfq
    >>> chain = mrfq.generators.chain(n=6, labels=3, seed=1)
    >>> solution = mrfq.solve(chain, "exhaustive")
    >>> solution.proved, str(solution.status).split(":")[0]
    (True, 'optimal')
    """
    solver = make(solver) if isinstance(solver, str) else solver
    if not isinstance(solver, Solver):
        raise InvalidParameterError(f"solver must be a Solver or the name of one, got {solver!r}")
    if not isinstance(problem, Problem):
        lacks = [name for name in ("label_set", "shape", "energy", "linearize") if not hasattr(problem, name)]
        raise InvalidProblemError(
            f"{type(problem).__name__} is not a problem, it lacks {', '.join(lacks) or 'a dtype'}"
        )
    if mismatch(problem, solver):
        check_match(problem, solver, fitting(problem))
    for name, value in (("max_iters", max_iters), ("max_oracle_calls", max_oracle_calls), ("trace_every", trace_every)):
        if value is not None and (value < 0 or (name == "trace_every" and value == 0)):
            raise InvalidParameterError(f"{name} must not be negative (trace_every: at least 1), got {value}")
    if time_limit is not None and not time_limit >= 0:
        raise InvalidParameterError(f"time_limit must be a number of seconds, at least 0, got {time_limit}")
    run = _Run(problem, solver, seed)
    if resume is None:
        run.begin(init, max_iters, max_oracle_calls)
    else:
        run.restore(resume, max_iters, max_oracle_calls)
    status = run.advance(time_limit, callback, trace_every)
    return run.solution(status)


class _Run:
    """One run in progress."""

    def __init__(self, problem: Problem, solver: Solver[Any], seed: int) -> None:
        self.problem, self.solver = problem, solver
        self.oracle = Oracle(problem, seed)
        self.trace = Trace()
        self.seconds = 0.0
        self.bound: float | None = None
        self.failed = False

    def begin(self, init: Init, max_iters: int | None, max_calls: int | None) -> None:
        oracle = self.oracle
        if max_iters is None and max_calls is None:
            max_iters = self.solver.max_iters
        oracle.horizon = UNLIMITED if max_iters is None else max_iters
        oracle.max_calls = max_calls
        self.limits = (oracle.horizon, max_calls)
        start = starting_point(self.problem, init, oracle.generator)
        began = time.perf_counter()
        self.state: State = self.solver.init(oracle, start)
        self.seconds += time.perf_counter() - began
        self.incumbent = Incumbent(self.problem, self.problem.label_set.round(start))
        self.record()

    def restore(self, earlier: Solution, max_iters: int | None, max_calls: int | None) -> None:
        kept: Checkpoint = copy.deepcopy(earlier.checkpoint)
        if kept is None or kept.solver != self.solver or kept.incumbent.labels.shape != self.problem.shape[:1]:
            raise InvalidParameterError("resume needs a solution of the same solver, parameters and problem")
        oracle = self.oracle
        oracle.generator.set_state(kept.generator)
        oracle.calls, oracle.draws, oracle.iteration = kept.calls, kept.draws, kept.iteration
        oracle.horizon, oracle.max_calls = kept.horizon, kept.max_calls
        self.limits = (
            kept.horizon if max_iters is None else max_iters,
            kept.max_calls if max_calls is None else max_calls,
        )
        self.state, self.trace, self.seconds = kept.state, kept.trace, kept.seconds
        self.incumbent, self.bound = kept.incumbent, kept.bound

    def advance(self, time_limit: float | None, callback: Callback | None, every: int | None) -> Status:
        oracle = self.oracle
        if every is None:
            steps = min(oracle.horizon, oracle.max_calls or oracle.horizon)
            every = max(1, steps // COSTLY_EVALUATIONS) if getattr(self.problem, "costly", False) else 1
        deadline = oracle.deadline = math.inf if time_limit is None else time.perf_counter() + time_limit
        status = self.finished(deadline)
        while status is None:
            began, oracle.spent = time.perf_counter(), oracle.calls
            self.state = self.solver.step(oracle, self.state)
            self.seconds += time.perf_counter() - began
            oracle.iteration += 1
            stopped = False
            if self.state.status or oracle.iteration % every == 0:
                self.record()
                stopped = bool(callback and callback({k: column[-1] for k, column in self.trace.columns.items()}))
            status = self.finished(deadline) or (Status.STOPPED if stopped else None)
        if self.trace["iteration"][-1] != oracle.iteration:
            self.record()
            status = self.finished(deadline) or status
        return status

    def finished(self, deadline: float) -> Status | None:
        """Return why the run must stop now, if it must."""
        oracle, (max_iters, max_calls) = self.oracle, self.limits
        if self.failed:
            return Status.NON_FINITE
        if self.proved():
            return Status.OPTIMAL
        if self.state.status is not None:
            return self.state.status
        if max_calls is not None and oracle.calls >= max_calls:
            return Status.CALL_LIMIT
        if oracle.iteration >= max_iters:
            return Status.ITERATION_LIMIT
        if time.perf_counter() >= deadline:
            return Status.TIME_LIMIT
        return None

    def proved(self) -> bool:
        return self.bound is not None and meets(self.incumbent.energy, self.bound)

    def record(self) -> None:
        """Evaluate the state: the solver is not charged for this, and cannot influence it."""
        state = self.state
        if state.bound is not None:
            self.bound = state.bound if self.bound is None else max(self.bound, state.bound)
        entropy = state.entropy
        if entropy is None:
            entropy = float(torch.special.entr(state.u).sum()) if state.u is not None else 0.0
        if math.isnan(entropy):  # entropies of a relaxed labelling are NaN as soon as one of its entries is
            self.failed = True
            return self.append(math.nan, math.nan, 0)
        labels = state.labels
        if labels is None:
            assert state.u is not None
            labels = self.problem.label_set.round(state.u)
        # A sweep tells the change of energy since the row before; rows in between would have been left out.
        told = state.sweep if self.trace["iteration"][-1:] == [self.oracle.iteration - 1] else None
        state.sweep = None
        ends = state.status is not None or self.oracle.iteration == 0
        energy, changed = self.incumbent.look(self.problem, labels, told, anew=ends)
        self.failed = math.isnan(energy)
        relaxed = math.nan if state.relaxed_energy is None else float(state.relaxed_energy)
        return self.append(energy, entropy / max(len(labels), 1), changed, relaxed)

    def append(self, energy: float, entropy: float, changed: int, relaxed: float = math.nan) -> None:
        self.trace.append(
            iteration=self.oracle.iteration,
            relaxed_energy=relaxed,
            energy=energy,
            best_energy=self.incumbent.energy,
            bound=math.nan if self.bound is None else self.bound,
            entropy=entropy,
            beta=math.nan if self.state.beta is None else self.state.beta,
            changed=changed,
            oracle_calls=self.oracle.calls,
            seconds=self.seconds,
        )

    def solution(self, status: Status) -> Solution:
        problem, state, oracle = self.problem, self.state, self.oracle
        last = state.u
        if last is None:
            assert state.labels is not None
            last = problem.label_set.one_hot(state.labels, problem.dtype)
        kept = Checkpoint(
            solver=self.solver,
            state=state,
            generator=oracle.generator.get_state(),
            trace=copy.deepcopy(self.trace),
            calls=oracle.calls,
            draws=oracle.draws,
            iteration=oracle.iteration,
            horizon=oracle.horizon,
            max_calls=oracle.max_calls,
            seconds=self.seconds,
            incumbent=self.incumbent,
            bound=self.bound,
        )
        labels = self.incumbent.labels.clone()
        energy = problem.energy(labels)
        bound = self.bound
        if bound is not None and bound > energy and meets(energy, bound):
            bound = energy  # above it in the last bits only
        return Solution(
            labels=labels,
            energy=energy,
            relaxed=last.clone(),
            lower_bound=bound,
            status=status,
            trace=self.trace,
            iterations=oracle.iteration,
            oracle_calls=oracle.calls,
            seconds=self.seconds,
            notes=tuple(state.notes),
            checkpoint=kept,
        )
